-- ARGV 12: ticket
local offer = offer_of(ARGV[12])
if not offer or not withdraw(ARGV[12]) then
  return reply('OK', false)
end
deliver(offer, 'NO_PEER', '', '')
return reply('OK', true)
