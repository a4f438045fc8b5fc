-- ARGV 12-18: ticket, pool, peer, bearer, nonce, digest, signal
local ticket, pool, peer, bearer, nonce, digest, signal = unpack(ARGV, 12, 18)
local arrival = { ticket = ticket, owner = OWNER, pool = pool, peer = peer, bearer = bearer }

local handover = good_handover(arrival, nonce)
if not handover then
  return reply('OK', false)
end

if handover.stage ~= 'offered' then
  if handover.digest ~= digest then
    return reply('OK', false)
  end
  if handover.stage == 'delivered' then
    deliver(arrival, 'DELIVERED', '', '')
  else
    table.insert(handover.repliers, { ticket, OWNER, peer, bearer })
    save_handover(nonce, handover)
  end
  return reply('OK', true)
end

local offer = handover.ticket ~= '' and offer_of(handover.ticket)
if not offer then
  delete_handover(nonce)
  connect(arrival, false)
  return reply('OK', true)
end

delete_offer(offer)
handover.ticket, handover.stage, handover.digest = '', 'answered', digest
handover.repliers = { { ticket, OWNER, peer, bearer } }
save_handover(nonce, handover)
set_deadline(nonce, NOW + WRITE)
deliver(offer, 'ANSWER', nonce, signal)
return reply('OK', true)
