-- ARGV 12: nonce
local handover = handover_of(ARGV[12])
if not handover or handover.stage ~= 'answered' then
  return reply('OK', false)
end
handover.stage = 'writing'
save_handover(ARGV[12], handover)
return reply('OK', true)
