-- Counts. KEYS as in lobby.lua, which it does without: to look on changes nothing.
local offers, waiting = redis.call('HLEN', KEYS[3]) / 2, redis.call('ZCARD', KEYS[7])
return { waiting, offers - waiting, redis.call('HLEN', KEYS[4]), redis.call('ZCARD', KEYS[9]) }
