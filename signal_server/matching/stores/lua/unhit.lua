-- KEYS[1]  a count
-- Takes a hit back, if its window has not ended.
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('DECR', KEYS[1])
end
