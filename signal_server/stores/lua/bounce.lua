-- ARGV 12-19: ticket, pool, peer, bearer, ms waited already, "1" if it may wait, signal, nonce
local ticket, pool, peer, bearer, waited, may_wait, signal, nonce = unpack(ARGV, 12, 19)
local arrival = {
  ticket = ticket, owner = OWNER, pool = pool, peer = peer, bearer = bearer, waited = tonumber(waited),
  signal = signal,
}

local handover = good_handover(arrival, nonce)
if not handover or handover.stage ~= 'offered' then
  return reply('OK', false)
end
delete_handover(nonce)
remember(handover)
give_back(handover.ticket)
connect(arrival, may_wait == '1')
return reply('OK', true)
