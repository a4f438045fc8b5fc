-- Counts. KEYS as in rules.lua, which it does without: to look on changes nothing.
local offers, waiting = redis.call('HLEN', KEYS[4]) / 2, redis.call('ZLEXCOUNT', KEYS[7], '[p ', '(p!')
return { waiting, offers - waiting, redis.call('HLEN', KEYS[5]), redis.call('ZCARD', KEYS[8]) }
