-- ARGV 12: ticket
return reply('OK', withdraw(ARGV[12]))
