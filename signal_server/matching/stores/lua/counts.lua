local PLACES -- of an address, if a request that has to wait needs one

-- A number as a command takes it. Redis writes the digits of a number by itself, too, but as those of a fraction,
-- which takes as long as a command.
local function whole(number)
  return string.format('%d', number)
end

local function server_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Count in windows, each of which begins with its first hit. `rates` has "ms most how" for each key from the one
-- at `at` on: the window's length, how many hits it allows, and "hit" it, "open" it if that is mostly the first
-- hit, or "look" only. Or how long a place is kept, how many there are, and "hold": `take_place` will count it.
-- Returns nothing, or which key has the first that is full, and the ms until its window ends. Those after it are
-- left alone.
local function full_count(keys, at, rates)
  PLACES = nil
  for ms, most, how in rates:gmatch('(%S+) (%S+) (%S+)') do
    local key, count = keys[at], 0
    if how == 'hold' then
      PLACES = { key, ms, most }
    elseif how == 'open' then
      count = redis.call('SET', key, '1', 'PX', ms, 'NX') and 1 or redis.call('INCR', key)
    elseif how == 'hit' then
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

-- Take a place among the requests of an address that wait: a sorted set of each by the time at which it has ended
-- for sure, `ms` from now. Returns false if it is one too many.
local function take_place(key, ms, most, ticket, now)
  most = tonumber(most)
  if redis.call('ZCARD', key) >= most then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now) -- those whose process has died
    if redis.call('ZCARD', key) >= most then
      return false
    end
  end
  redis.call('ZADD', key, whole(now + ms), ticket)
  redis.call('PEXPIRE', key, ms)
  return true
end
