-- ARGV 12: ticket
--      13: '1' to leave it if its offer is out with a responder
return reply('OK', withdraw(ARGV[12], ARGV[13] == '1'))
