-- ARGV 12-18: ticket, pool, peer, bearer, ms that it may wait, "1" if it may wait, signal
local ticket, pool, peer, bearer, wait, may_wait, signal = unpack(ARGV, 12, 18)
connect({
  ticket = ticket, owner = OWNER, pool = pool, peer = peer, bearer = bearer, wait = tonumber(wait),
  signal = signal,
}, may_wait == '1')
return reply('OK', true)
