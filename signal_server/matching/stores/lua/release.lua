-- ARGV 12: nonce
local handover = handover_of(ARGV[12])
if handover and handover.stage == 'offered' then
  release(ARGV[12], handover)
end
return reply('OK', true)
