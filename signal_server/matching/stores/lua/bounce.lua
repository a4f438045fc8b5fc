
function events.bounce(nonce, may_wait, arrival, signal)
  arrival = arrival_of(arrival, signal)
  local handover = good_handover(arrival, nonce)
  if not handover or handover.stage ~= 'offered' then
    return reply('OK', false)
  end
  if may_wait ~= '1' and not oldest_for(arrival, handover.initiator) then
    deliver(arrival, 'NO_PEER', '', '')
    return reply('OK', true)
  end
  delete_handover(nonce)
  remember(handover, 'bounced')
  if may_wait == '1' then
    give_back(handover.ticket)
    connect(arrival, true)
  else -- first, lest the returned offer takes the one that was found
    connect(arrival, false)
    give_back(handover.ticket)
  end
  return reply('OK', true)
end
