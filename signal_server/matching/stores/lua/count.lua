-- KEYS[1]    a count, whose window begins with its first hit
-- ARGV[1-2]  the window's length in ms, how much to add
-- Returns the count.
local count = redis.call('INCRBY', KEYS[1], ARGV[2])
if count == tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return count
