-- KEYS[1]    sorted set: the requests of an address that wait, each by the time at which it has ended for sure
-- ARGV[1-3]  ms from now to that time, the ticket of one more, how many there may be
-- Returns 1, or 0 if it is one too many.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
  return 0
end
redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
