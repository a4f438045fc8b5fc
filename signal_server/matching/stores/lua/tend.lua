-- What an owner does now and then: prolong its lease (as every call does), fetch its mail, and look after what
-- is its own.
--
-- ARGV 12     the number of the last delivery that was handed out, which is not kept any longer
--      13     "1" to sweep the old pairs
--      14     how many tickets follow of requests that were given up: they leave, and whatever offer they were
--             handed, in a reply that nobody had, goes back
--      15...  those, and then pairs of a ticket and "", or the nonce that it answers, to ask whether its reply
--             is still to come
-- Returns also { number, "ticket type nonce signal", ... }; those tickets whose reply is not to come; and 1 if there is
-- more to fetch or to sweep.
local past, given_up = 14 + tonumber(ARGV[14]), {}
for i = 15, past do
  withdraw(ARGV[i])
  given_up[ARGV[i]] = true
end
if next(given_up) then -- seldom enough to look through all
  for _, nonce in ipairs(redis.call('HKEYS', HANDOVERS)) do
    local handover = handover_of(nonce)
    if handover and handover.stage == 'offered' and given_up[handover.to] then
      release(nonce, handover)
    end
  end
end

if ARGV[12] ~= '' then
  redis.call('ZREMRANGEBYLEX', MAIL, '[' .. OWNER .. ' ', '(' .. OWNER .. ' ' .. ARGV[12] .. '!')
end
local mail = {}
for _, each in ipairs(first(MAIL, OWNER, 100)) do
  table.insert(mail, each:sub(#OWNER + 2, #OWNER + 16))
  table.insert(mail, each:sub(#OWNER + 18))
end

local lost = {}
for i = past + 1, #ARGV, 2 do
  local handover = ARGV[i + 1] ~= '' and handover_of(ARGV[i + 1])
  local is_answering = handover and (handover.stage == 'answered' or handover.stage == 'writing')
  if not is_answering and redis.call('HEXISTS', OFFERS, ARGV[i]) == 0 then
    table.insert(lost, ARGV[i])
  end
end

local old = ARGV[13] == '1' and redis.call('ZRANGEBYSCORE', PAIRS, '-inf', NOW, 'LIMIT', 0, MOST) or {}
if #old > 0 then
  redis.call('ZREM', PAIRS, unpack(old))
end
return reply('OK', true, '', mail, lost, (#mail == 200 or #old == MOST) and 1 or 0)
