-- ARGV 12-13: nonce, "1" if the answer was written
local nonce, written = ARGV[12], ARGV[13] == '1'
local handover = handover_of(nonce)
if not handover or (handover.stage ~= 'answered' and handover.stage ~= 'writing') then
  return reply('OK', true) -- too late: the responder was told that the initiator is gone
end
if not written then
  lose(nonce, handover)
  return reply('OK', true)
end
remember(handover)
for _, each in ipairs(handover.repliers) do
  deliver({ ticket = each[1], owner = each[2] }, 'DELIVERED', '', '')
end
handover.stage, handover.repliers = 'delivered', {}
save_handover(nonce, handover)
set_deadline(nonce, NOW + ANSWER)
return reply('OK', true, handover.responder)
