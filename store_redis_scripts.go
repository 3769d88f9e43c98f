package session

import "github.com/redis/go-redis/v9"

// redisScripts are what the store has Redis do in one step. Arguments 1 to 3
// are the same for those that change records: the size of the largest record,
// the Pub/Sub channel of changes and the message for it.
type redisScripts struct {
	swap, end, remove, note, lease, release *redis.Script
}

func newRedisScripts() redisScripts {
	return redisScripts{
		swap:    redis.NewScript(swapSource),
		end:     redis.NewScript(endSource),
		remove:  redis.NewScript(removeSource),
		note:    redis.NewScript(noteSource),
		lease:   redis.NewScript(leaseSource),
		release: redis.NewScript(releaseSource),
	}
}

// keepTTL, in place of a TTL, has a record that is replaced keep the one it has.
const keepTTL = "keep"

// notAString is what a key of another type reads as: no session, and something
// that the next SET replaces.
const notAString = "\x00not a string"

// readString reads at most the given number of bytes, and one more, so that
// something huge under a key costs no more than the largest value of ours.
const readString = `
local function read(key, most)
  local value = redis.pcall('GETRANGE', key, 0, most)
  if type(value) ~= 'string' then return '\0not a string' end
  return value
end
`

// readFence takes a fence apart. What is not of our making counts as none.
const readFence = readString + `
local function readFence(key)
  local noted, mark = string.match(read(key, 33), '^(%d+) ([0-9a-f]+)$')
  if noted and #noted == 16 and #mark == 16
    and mark ~= '0000000000000000' and mark ~= '0000000000000001' then
    return noted, mark
  end
  return nil, '0000000000000001'
end
`

// announce is for those who cannot be told by CLIENT TRACKING; a server that
// forbids PUBLISH does not fail the write.
const announce = `
redis.pcall('PUBLISH', ARGV[2], ARGV[3])
return 1
`

// noteEvent adds an event to a trail: see addToTrail, which does the same. Whatever is
// wrong with the trail, the script goes on.
const noteEvent = `
local function noteEvent(key, event, at, ends, keep)
  local trail = redis.pcall('GETRANGE', key, 0, 4095)
  local lines, first, count = {''}, at, 1
  local folding = string.sub(event, 1, 1) == '~'
  for line in string.gmatch(type(trail) == 'string' and trail or '', '[^\n]+') do
    local began, times, what = string.match(line, '^(%d+) %d+ (%d+) %d+ (.+)$')
    if what and folding and what == event then
      first, count = began, tonumber(times) + 1
    elseif what and #lines < 8 then
      folding = folding and string.sub(what, 1, 1) == '~'
      lines[#lines + 1] = line
    end
  end
  lines[1] = string.format('%s %s %.0f %s %s', first, at, count, ends, event)
  redis.pcall('SET', key, table.concat(lines, '\n'), 'PX', keep)
end
`

// swapSource replaces or creates a record. KEYS: the record; the lease, if
// there is an owner; the fence, if there is a version to be compared; the trail, if
// there is an event. With one key it goes on working while the key's Cluster slot
// moves; with several it gets TRYAGAIN then.
const swapSource = readFence + noteEvent + `
local old, new, ttl, owner, version = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local event, at, ends, keep = ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local cur = read(KEYS[1], ARGV[1])
if cur ~= old then
  if cur == new then return 1 end -- a command that got through, sent again
  return 0
end
local mine = owner ~= '' and read(KEYS[2], #owner) == owner
if owner ~= '' and old == '' and not mine then return 0 end
if version ~= '' then
  local _, mark = readFence(KEYS[owner ~= '' and 3 or 2])
  if mark ~= version then return 0 end
end
if ttl == '' then
  redis.call('SET', KEYS[1], new)
elseif ttl == '` + keepTTL + `' then
  redis.call('SET', KEYS[1], new, 'KEEPTTL')
else
  redis.call('SET', KEYS[1], new, 'PX', ttl)
end
if mine then redis.call('DEL', KEYS[2]) end
if event ~= '' then noteEvent(KEYS[#KEYS], event, at, ends, keep) end
` + announce

// endSource ends a session, or an absence: it removes the record and the lease
// and moves the fence. KEYS: the fence, the record, the lease, and the trail if there is
// an event; or the fence alone, to take these steps apart. A script whose first write is a DEL may
// also SET when Redis is full, so logging out takes no room.
const endSource = readFence + noteEvent + `
local old, version, new, at, ttl, latest = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local event, noteAt, ends, keep = ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local noted, mark = readFence(KEYS[1])
if mark == new then return 1 end -- a command that got through, sent again
local cur = ''
if KEYS[2] then cur = read(KEYS[2], ARGV[1]) end
if old ~= '' and cur ~= '' and cur ~= old then return 0 end
if old == '' and version ~= '' and (cur ~= '' or mark ~= version) then return 0 end
if noted then
  local left = redis.call('PTTL', KEYS[1])
  if left > tonumber(ttl) then ttl = string.format('%.0f', left) end
end
if noted and noted <= latest and noted > at then at = noted end
redis.call('DEL', unpack(KEYS, 1, math.min(#KEYS, 3)))
redis.call('SET', KEYS[1], at .. ' ' .. new, 'PX', ttl)
if event ~= '' then noteEvent(KEYS[4], event, noteAt, ends, keep) end
` + announce

// removeSource removes a record, if it is the one that is meant or any is.
const removeSource = readString + `
local cur = read(KEYS[1], ARGV[1])
if cur == '' then return 1 end
if cur ~= ARGV[4] and ARGV[5] ~= 'true' then return 0 end
redis.call('DEL', KEYS[1])
` + announce

// noteSource is for what could not be noted with the write.
const noteSource = readString + noteEvent + `
local last, what = string.match(read(KEYS[1], 4095), '^%d+ (%d+) %d+ %d+ ([^\n]+)')
if what == ARGV[1] and last == ARGV[2] then return 1 end -- a command that got through, sent again
noteEvent(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
return 1
`

// leaseSource takes the lease or renews it, and returns what is under its key.
// A holder that is not of our making, or would hold for ever, is replaced.
// Renewing takes no room.
const leaseSource = readString + `
local mine, ttl, longest = ARGV[1], ARGV[2], ARGV[3]
local holder = read(KEYS[1], ARGV[4])
if holder == mine then
  redis.call('PEXPIRE', KEYS[1], ttl)
  return holder
end
local ours = string.sub(holder, 1, 6) == 'owner:' or string.sub(holder, 1, 5) == 'note:'
if ours and #holder <= tonumber(ARGV[4]) then
  local left = redis.call('PTTL', KEYS[1])
  if left >= 0 and left <= tonumber(longest) then return holder end
end
redis.call('SET', KEYS[1], mine, 'PX', ttl)
return mine
`

const releaseSource = readString + `
if read(KEYS[1], #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
`
