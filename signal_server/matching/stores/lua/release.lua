
function events.release(nonce)
  local handover = handover_of(nonce)
  if handover and handover.stage == 'offered' then
    delete_handover(nonce)
    give_back(handover.ticket)
  end
  return reply('OK', true)
end
