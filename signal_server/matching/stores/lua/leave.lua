
-- The LEAVE of a request. One that is not here may be on its way, and ends when it comes within so many ms.
function events.leave(ticket, lasts)
  local offer = offer_of(ticket)
  if offer then
    withdraw(ticket)
    deliver(offer, 'NO_PEER', '', '')
  else
    redis.call('ZADD', DUE, whole(NOW + lasts), ticket .. ' l')
  end
  return reply('OK', offer)
end
