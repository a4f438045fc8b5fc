-- KEYS    counts, each with a window that begins with its first hit
-- ARGV    for each: the window's length in ms, how many hits it allows, and "1" to hit it, or "0" to look only
-- Returns 0; or the number of the first that is full, and the ms until its window ends. Those after it are
-- left alone.
for i, key in ipairs(KEYS) do
  local length, most, hits = ARGV[3 * i - 2], tonumber(ARGV[3 * i - 1]), ARGV[3 * i] == '1'
  local count
  if hits then
    count = redis.call('INCR', key)
    if count == 1 then
      redis.call('PEXPIRE', key, length)
    end
  else
    count = tonumber(redis.call('GET', key) or 0) + 1
  end
  if count > most then
    return { i, redis.call('PTTL', key) }
  end
end
return 0
