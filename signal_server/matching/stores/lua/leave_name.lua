-- KEYS[1]    as in take_name.lua
-- ARGV[1-2]  the leaver, ms for which a request that comes later is ended, too
-- Returns { shard, ticket } of the request to end; or {}.
local held = redis.call('GET', KEYS[1]) or ''
local leaver, shard, ticket = held:match('^(%S+) (%S+) (%S+)$')
if leaver then
  return leaver == ARGV[1] and { shard, ticket } or {}
end
if not held:find(ARGV[1], 1, true) then
  held = held .. ARGV[1] .. ','
end
redis.call('SET', KEYS[1], held, 'PX', ARGV[2])
return {}
