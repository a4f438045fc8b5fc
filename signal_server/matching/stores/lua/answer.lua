
function events.answer(nonce, arrival, signal)
  arrival = arrival_of(arrival, signal)
  local handover = good_handover(arrival, nonce)
  if not handover then
    return reply('OK', false)
  end

  if handover.stage ~= 'offered' then
    if handover.digest ~= arrival.digest then
      return reply('OK', false)
    end
    if handover.stage == 'delivered' then
      deliver(arrival, 'DELIVERED', '', '')
    else
      table.insert(handover.repliers, packed(arrival, REPLIER))
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
  handover.ticket, handover.stage, handover.digest = '', 'answered', arrival.digest
  handover.repliers = { packed(arrival, REPLIER) }
  save_handover(nonce, handover)
  set_deadline(nonce, NOW + WRITE)
  deliver(offer, 'ANSWER', nonce, signal)
  return reply('OK', true)
end
