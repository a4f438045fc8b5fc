
function events.withdraw(ticket, unless_offered)
  return reply('OK', withdraw(ticket, unless_offered == '1'))
end
