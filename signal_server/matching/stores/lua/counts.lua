-- Count in windows, each of which begins with its first hit. `rates` has "ms most how" for each key from the one
-- at `at` on: the window's length, how many hits it allows, and "hit" it or "look" only.
-- Returns nothing, or which key has the first that is full, and the ms until its window ends. Those after it are
-- left alone.
local function full_count(keys, at, rates)
  for ms, most, how in rates:gmatch('(%S+) (%S+) (%S+)') do
    local key, count = keys[at]
    if how == 'hit' then
      count = redis.call('INCR', key)
      if count == 1 then
        redis.call('PEXPIRE', key, ms)
      end
    else
      count = tonumber(redis.call('GET', key) or 0) + 1
    end
    if count > tonumber(most) then
      return at, redis.call('PTTL', key)
    end
    at = at + 1
  end
end
