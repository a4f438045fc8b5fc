-- ARGV 12-19: ticket, pool, peer, bearer, ms that it may wait, "1" if it may wait, signal, nonce
local ticket, pool, peer, bearer, wait, may_wait, signal, nonce = unpack(ARGV, 12, 19)
local arrival = {
  ticket = ticket, owner = OWNER, pool = pool, peer = peer, bearer = bearer, wait = tonumber(wait),
  signal = signal,
}

local handover = good_handover(arrival, nonce)
if not handover or handover.stage ~= 'offered' then
  return reply('OK', false)
end
if may_wait ~= '1' and not oldest_for(pool, peer) then
  deliver(arrival, 'NO_PEER', '', '')
  return reply('OK', true)
end
delete_handover(nonce)
remember(handover)
if may_wait == '1' then
  give_back(handover.ticket)
  connect(arrival, true)
else -- first, lest the returned offer takes the one that was found
  connect(arrival, false)
  give_back(handover.ticket)
end
return reply('OK', true)
