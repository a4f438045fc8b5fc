
function events.release(nonce)
  local handover = handover_of(nonce)
  if handover and handover.stage == 'offered' then
    release(nonce, handover)
  end
  return reply('OK', true)
end
