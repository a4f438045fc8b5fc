
-- The rules ---------------------------------------------------------------------------------------------------
--
-- Who is linked with whom: the twin of signal_server/matching/rules.py, with the same names.

-- In a line, "p" or "q", an offer stands among those of its peer. One that somebody let lapse is not for all
-- alike, so it stands alone, and hides no other one of its peer.
local function stand_of(line, offer)
  return line .. ' ' .. offer.pool .. ' ' .. (offer.lapsed and offer.ticket or offer.peer)
end

-- The place of the oldest offer that stands there: "place ticket", or nil.
local function head_of(own)
  local head = first(INDEX, own, '1')[1]
  return head and head:sub(#own + 2)
end

-- Put a waiting offer in a line, and at its head if it is the oldest of its peer there; and `...` in the index.
local function stand(line, heads, offer, ...)
  local place, own = offer.place .. ' ' .. offer.ticket, stand_of(line, offer)
  local head, waiting = head_of(own), own .. ' ' .. place
  if head and head < place then
    redis.call('ZADD', INDEX, '0', waiting, ...)
  else
    redis.call('ZADD', INDEX, '0', waiting, '0', heads .. ' ' .. offer.pool .. ' ' .. place, ...)
    if head then
      redis.call('ZREM', INDEX, heads .. ' ' .. offer.pool .. ' ' .. head)
    end
  end
end

local function step_out(line, heads, offer)
  local place, own = offer.place .. ' ' .. offer.ticket, stand_of(line, offer)
  if redis.call('ZREM', INDEX, own .. ' ' .. place, heads .. ' ' .. offer.pool .. ' ' .. place) == 2 then
    local head = head_of(own)
    if head then
      redis.call('ZADD', INDEX, '0', heads .. ' ' .. offer.pool .. ' ' .. head)
    end
  end
end

local function wait(offer)
  stand('p', 'h', offer, '0', 'o ' .. offer.owner .. ' ' .. offer.ticket)
  if offer.rematch then
    stand('q', 'r', offer)
  end
  redis.call('ZADD', DUE, whole(offer.deadline), offer.ticket .. ' t')
  keep(INDEX)
end

local function waits(offer)
  return redis.call('ZSCORE', INDEX, stand_of('p', offer) .. ' ' .. offer.place .. ' ' .. offer.ticket)
end

local function stop_waiting(offer)
  step_out('p', 'h', offer)
  if offer.rematch then
    step_out('q', 'r', offer)
  end
  redis.call('ZREM', DUE, offer.ticket .. ' t')
end

-- The first offer at the head of a line that `suits`.
local function search(heads, pool, suits)
  local from, past, page = '[' .. heads .. ' ' .. pool .. ' ', '(' .. heads .. ' ' .. pool .. '!', '1'
  while true do
    local found = redis.call('ZRANGEBYLEX', INDEX, from, past, 'LIMIT', '0', page)
    for _, head in ipairs(found) do
      local offer = offer_of(head:match('[^ ]+$'))
      if not offer then
        redis.call('ZREM', INDEX, head)
      elseif suits(offer) then
        return offer
      end
    end
    if #found < tonumber(page) then
      return nil
    end
    from, page = '(' .. found[#found], '50'
  end
end

local function has_lapsed(offer, peer)
  return offer.lapsed and offer.lapsed:find(peer .. ' ', 1, true)
end

-- Would the responder get what it let lapse before? The older of two requests is the offer.
local function would_lapse_again(offer, arrival)
  if arrival.place and arrival.place < offer.place then -- it is an offer that has returned
    return has_lapsed(arrival, offer.peer)
  end
  return has_lapsed(offer, arrival.peer)
end

-- The oldest waiting offer of another peer that this one has not met, nor is about to bounce. Where there is
-- none, and both say REMATCH, the oldest of one that it was linked with. What a peer let lapse, because it did
-- not answer in time, it gets again only if there is no other.
local function oldest_for(arrival, unwanted)
  local pool, peer = arrival.pool, arrival.peer
  local again
  local function search_among(heads, how)
    return search(heads, pool, function(offer)
      if offer.peer == peer or offer.peer == unwanted or met(pool, peer, offer.peer) ~= how then
        return false
      end
      if would_lapse_again(offer, arrival) then
        again = again or offer
        return false
      end
      return true
    end)
  end
  return search_among('h', nil) or arrival.rematch and search_among('r', 'linked') or again
end

-- The parts of an event --------------------------------------------------------------------------------------

-- The handover, if the nonce is presented in its own pool by the peer that it was given to.
local function good_handover(arrival, nonce)
  local handover = handover_of(nonce)
  if handover and handover.pool == arrival.pool and handover.bearer == arrival.bearer then
    return handover
  end
end

-- Offer a request to a responder, whose own request ends with it.
local function hand_over(offer, responder)
  local nonce = next_nonce()
  save_handover(nonce, {
    pool = responder.pool, initiator = offer.peer, responder = responder.peer, bearer = responder.bearer,
    ticket = offer.ticket, to = responder.ticket, stage = 'offered', digest = '', repliers = {},
  })
  keep(HANDOVERS)
  set_deadline(nonce, NOW + ANSWER)
  deliver(responder, 'DEMOTE', nonce, redis.call('HGET', OFFERS, offer.ticket .. ' s'))
end

-- Match a newcomer with the oldest offer that it may meet, or let it wait.
local function connect(arrival, may_wait)
  local found = oldest_for(arrival)
  if found then
    hand_over(found, arrival)
    stop_waiting(found)
  elseif not may_wait then
    deliver(arrival, 'NO_PEER', '', '')
  elseif PLACES and not take_place(PLACES[1], PLACES[2], PLACES[3], arrival.ticket, NOW) then
    deliver(arrival, 'CROWDED', '', '')
  else
    arrival.place = next_number()
    arrival.deadline = NOW + arrival.wait
    save_offer(arrival, arrival.ticket .. ' s', arrival.signal)
    wait(arrival)
  end
end

-- Put an offer back in its place, and match it at once with another that waits; `late` is the peer that had it,
-- if it did not answer in time.
local function give_back(ticket, late)
  local offer = ticket ~= '' and offer_of(ticket)
  if not offer or not is_alive(offer.owner) then
    return -- its owner is about to be reaped, and it with it
  end
  if late then
    offer.lapsed = (offer.lapsed or '') .. late .. ' '
    save_offer(offer)
  end
  if offer.deadline <= NOW then
    delete_offer(offer)
    deliver(offer, 'NO_PEER', '', '')
    return
  end
  local other = oldest_for(offer)
  if not other then
    wait(offer)
    return
  end
  local waited = other
  if other.place < offer.place then
    offer, other = other, offer
  end
  hand_over(offer, other)
  stop_waiting(waited)
  delete_offer(other)
end

-- The initiator is gone: each peer that answered it gets the next offer, or none.
local function lose(handover)
  for _, each in ipairs(handover.repliers) do
    local replier = unpacked(each, REPLIER)
    if is_alive(replier.owner) then
      replier.pool = handover.pool
      connect(replier, false)
    end
  end
end

local function withdraw(ticket, unless_offered)
  local offer = offer_of(ticket)
  if not offer or (unless_offered and not waits(offer)) then
    return false
  end
  stop_waiting(offer) -- of one that is out the nonce stays a ticket past the limits until its time is over
  delete_offer(offer)
  return true
end

-- What every event begins with -------------------------------------------------------------------------------

-- Take away what an owner has whose lease is over: an offer, or at last its mail and its lease.
local function reap(owner)
  local owned = first(INDEX, 'o ' .. owner, '1')[1]
  if owned then
    withdraw(owned:sub(#owner + 4))
    redis.call('ZREM', INDEX, owned)
  else
    redis.call('ZREMRANGEBYLEX', MAIL, '[' .. owner .. ' ', '(' .. owner .. '!')
    redis.call('ZREM', DUE, owner .. ' o')
  end
end

-- What runs out of time next, and when.
local function next_due()
  return unpack(redis.call('ZRANGE', DUE, '0', '0', 'WITHSCORES'))
end

-- End what has run out of time, beginning with what does next. Returns true if there may be more.
local function expire(due, ends)
  for _ = 1, MOST do
    if not due or tonumber(ends) > NOW then
      return false
    end
    local name, kind = due:sub(1, -3), due:sub(-1)
    if kind == 'o' then
      reap(name)
    elseif kind == 'n' then
      local handover = handover_of(name)
      delete_handover(name)
      if handover and handover.stage == 'answered' then
        lose(handover)
      elseif handover then -- not answered in time, or delivered
        give_back(handover.ticket, handover.responder)
      end
    else
      redis.call('ZREM', DUE, due)
      local offer = kind == 't' and offer_of(name)
      if offer then
        stop_waiting(offer)
        delete_offer(offer)
        deliver(offer, 'NO_PEER', '', '')
      end
    end
    due, ends = next_due()
  end
  return true
end

-- Is this the life of the server that wrote last? It may have been a replica since.
local function is_same_life()
  local life = redis.call('SET', LIFE, OFFERS, 'PX', KEEP, 'GET')
  return not life or life == OFFERS
end

-- Returns what keeps the event from being begun, or nil.
local function begin()
  local lease, due, ends = OWNER .. ' o', next_due()
  local own = due == lease and ends or redis.call('ZSCORE', DUE, lease) -- mostly it is the first
  local until_ms = BEGINS and NOW or tonumber(own or 0)
  if until_ms <= NOW and not BEGINS then
    return 'LAPSED'
  end
  if until_ms - NOW < LEASE * 0.9 then
    if not is_same_life() or not due then -- where nobody has a lease, nothing is anybody's
      redis.call('UNLINK', OFFERS, HANDOVERS, DUE, INDEX, MAIL)
      if not BEGINS then
        return 'LAPSED'
      end
    end
    redis.call('ZADD', DUE, whole(NOW + LEASE), lease)
    keep(OFFERS)
    keep(DUE)
    due, ends = next_due()
  end
  return expire(due, ends) and 'AGAIN' or nil
end

local function run(event, keys, words)
  open(keys)
  enter(words)
  local stop = begin()
  if stop then
    return reply(stop)
  end
  local full, left = full_count(keys, COUNTS, RATES)
  if full then
    return reply('FULL', false, '', full - COUNTS + 1, left)
  end
  return event(unpack(words, 4))
end

-- To look on changes nothing, so it needs no owner.
local function look(view, keys)
  open(keys)
  return view()
end

-- The events --------------------------------------------------------------------------------------------------
