
function events.settle(nonce, written)
  local handover = handover_of(nonce)
  if not handover or handover.stage ~= 'answered' then
    return reply('OK', true) -- too late: the responder was told that the initiator is gone
  end
  if written ~= '1' then
    delete_handover(nonce)
    lose(handover)
    return reply('OK', true)
  end
  remember(handover, 'linked')
  for _, each in ipairs(handover.repliers) do
    deliver(unpacked(each, REPLIER), 'DELIVERED', '', '')
  end
  handover.stage, handover.repliers = 'delivered', {}
  save_handover(nonce, handover)
  set_deadline(nonce, NOW + ANSWER)
  return reply('OK', true, handover.responder)
end
