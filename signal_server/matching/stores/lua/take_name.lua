-- KEYS[1]    the name of a request: "leaver shard ticket" while it is open, or "leaver," of each LEAVE before it
-- ARGV[1-4]  the leaver, the shard, the ticket, ms after which the request is over for sure
-- Returns "taken", "in use" or "left".
local held = redis.call('GET', KEYS[1]) or ''
if held:find(' ', 1, true) then
  return 'in use'
end
if held:find(ARGV[1], 1, true) then
  return 'left'
end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3], 'PX', ARGV[4])
return 'taken'
