
-- What an owner does now and then: prolong its lease (as every call does), fetch its mail, and look after what
-- is its own.
--
-- last      the number of the last delivery that was handed out, or ""; it is not kept any longer
-- sweeps    "1" to sweep the old pairs
-- count     how many tickets follow of requests that were given up: they leave, and the offer that one of them
--           was handed, in a reply that nobody had, goes back
-- ...       those, and then pairs of a ticket and "", or the nonce that it answers, to ask whether its reply is
--           still to come
--
-- Returns also { number, ms, "ticket type nonce signal", ... }, where an `ANSWER` may be written for so many ms; the
-- tickets whose reply is not to come; and 1 if there is more to fetch or to sweep.
local function fetch(most)
  local mail = first(MAIL, OWNER, most)
  local fetched = {}
  for _, each in ipairs(mail) do
    local number, delivery = each:sub(#OWNER + 2, #OWNER + 16), each:sub(#OWNER + 18)
    local type, nonce = delivery:match('^%S+ (%S+) (%S*)')
    local left = 0
    if type == 'ANSWER' then
      left = math.max(0, tonumber(redis.call('ZSCORE', DUE, nonce .. ' n') or 0) - NOW)
    end
    local n = #fetched
    fetched[n + 1], fetched[n + 2], fetched[n + 3] = number, left, delivery
  end
  return fetched, #mail == most
end

function events.poll(last, sweeps, count, ...)
  local names, given_up = { ... }, {}
  for i = 1, tonumber(count) do
    withdraw(names[i])
    given_up[names[i]] = true
  end
  if next(given_up) then -- seldom enough to look through all
    for _, nonce in ipairs(redis.call('HKEYS', HANDOVERS)) do
      local handover = handover_of(nonce)
      if handover and handover.stage == 'offered' and given_up[handover.to] then
        delete_handover(nonce)
        give_back(handover.ticket)
      end
    end
  end

  if last ~= '' then
    redis.call('ZREMRANGEBYLEX', MAIL, '[' .. OWNER .. ' ', '(' .. OWNER .. ' ' .. last .. '!')
  end
  local mail, is_more = fetch(100)

  local lost = {}
  for i = tonumber(count) + 1, #names, 2 do
    local handover = names[i + 1] ~= '' and handover_of(names[i + 1])
    local is_answering = handover and handover.stage == 'answered'
    if not is_answering and redis.call('HEXISTS', OFFERS, names[i]) == 0 then
      table.insert(lost, names[i])
    end
  end

  local old = sweeps == '1' and redis.call('ZRANGEBYSCORE', PAIRS, '-inf', 2 * NOW + 1, 'LIMIT', 0, MOST) or {}
  if #old > 0 then
    redis.call('ZREM', PAIRS, unpack(old))
  end
  return reply('OK', true, '', mail, lost, (is_more or #old == MOST) and 1 or 0)
end
