-- KEYS[1]    as in take_name.lua
-- ARGV[1-2]  the leaver, ms for which a request that comes later is ended, too
-- Returns { shard, ticket } of the request to end; or {}.
local held = redis.call('GET', KEYS[1])
if not held then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return {}
end
local leaver, shard, ticket = held:match('^(%S+) (%S+) (%S+)$')
return leaver == ARGV[1] and { shard, ticket } or {}
