-- ARGV 12: nonce
local handover = handover_of(ARGV[12])
if handover and handover.stage == 'offered' then
  delete_handover(ARGV[12])
  give_back(handover.ticket)
end
return reply('OK', true)
