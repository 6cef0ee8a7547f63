"""What the Redis server does in one step. Every key that a script touches is named to it; `redis` says what lies where.

A script runs alone, from its start to its end: nobody sees half of one, and one that is refused for want of memory has
changed nothing, because its first change is one that Redis would refuse. Versions are compared as two halves, for
Lua's numbers hold only 53 bits, and Lua's order of strings is the locale's.
"""

from hashlib import sha1
from typing import TypeAlias

Part: TypeAlias = bytes | str | int
Call: TypeAlias = tuple[Part, ...]

FORMAT = b"1"
WRITES_REMEMBERED = 32


class Script:
    """A script, called by its digest."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._digest = sha1(text.encode()).hexdigest()

    def call(self, keys: list[bytes], *arguments: Part) -> Call:
        return ("EVALSHA", self._digest, len(keys), *keys, *arguments)


READ = Script("""
-- KEYS: per request its space and its cell keys. ARGV: bytes after which a request is cut short (0: never), and per
-- request the number of its cell keys. Gives per request format, state, and per key its cells.
local most, at, found = tonumber(ARGV[1]), 1, {}
for request = 2, #ARGV do
    local space, count = redis.call('HMGET', KEYS[at], 'format', 'state'), tonumber(ARGV[request])
    local answer, size = {space[1], space[2]}, 0
    for i = 1, space[1] and count or 0 do
        local cells = redis.call('HGETALL', KEYS[at + i])
        answer[i + 2] = cells
        if most > 0 then
            for j = 1, #cells do size = size + #cells[j] end
            if size >= most then break end
        end
    end
    found[request - 1], at = answer, at + count + 1
end
return found
""")

WRITE = Script(f"""
-- KEYS: space, dropped, writes, index, the keys of the deletes, of the cells. ARGV: token, whether there is a state,
-- state, what it is written over ('any', 'none', 'state'), that state, number of deletes, slot and version per delete,
-- slot and record per cell.
local space, dropped, writes, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('EXISTS', dropped) == 1 then return {{'dropped'}} end
local known = redis.call('HMGET', space, 'format', 'state')
if known[1] and known[1] ~= '{FORMAT.decode()}' then return {{'format', known[1]}} end
local before = redis.call('LPOS', writes, ARGV[1])
if before then return {{'written', tonumber(redis.call('LINDEX', writes, before + 1)), 0}} end
if ARGV[4] == 'none' and known[2] or ARGV[4] == 'state' and known[2] ~= ARGV[5] then return {{'conflict'}} end
redis.call('HSET', space, 'format', '{FORMAT.decode()}')
if ARGV[2] == '1' then redis.call('HSET', space, 'state', ARGV[3]) end

local function at_most(stored, version)
    local a, b = struct.unpack('>i4I4', stored)
    local c, d = struct.unpack('>i4I4', version)
    return a < c or (a == c and b <= d)
end

local from, deletes, written = #index + 2, tonumber(ARGV[6]), 0
for i = 1, deletes do
    local key, slot = KEYS[4 + i], ARGV[5 + 2 * i]
    local stored = redis.call('HGET', key, slot)
    if stored and at_most(stored, ARGV[6 + 2 * i]) then
        redis.call('HDEL', key, slot)
        if redis.call('EXISTS', key) == 0 then redis.call('ZREM', index, string.sub(key, from)) end
    end
end
for i = deletes + 1, #KEYS - 4 do
    local key, slot, record = KEYS[4 + i], ARGV[5 + 2 * i], ARGV[6 + 2 * i]
    local stored = redis.call('HGET', key, slot)
    if not stored or at_most(stored, record) then
        redis.call('HSET', key, slot, record)
        if not stored then redis.call('ZADD', index, 0, string.sub(key, from)) end
        written = written + 1
    end
end
redis.call('LPUSH', writes, written, ARGV[1])
redis.call('LTRIM', writes, 0, {2 * WRITES_REMEMBERED - 1})
return {{'written', written, known[1] and 0 or 1}}
""")

COUNT = Script("""
-- KEYS: space, cell keys. Gives format, and the number of keys, cells and bytes.
local known, keys, count, size = redis.call('HGET', KEYS[1], 'format'), 0, 0, 0
local name = #KEYS[1] + #':keys:'
for i = 2, #KEYS do
    local slots = redis.call('HKEYS', KEYS[i])
    if #slots > 0 then keys = keys + 1 end
    for j = 1, #slots do
        count = count + 1
        size = size + #KEYS[i] - name + #slots[j] + redis.call('HSTRLEN', KEYS[i], slots[j]) - 8
    end
end
return {known, keys, count, size}
""")

DROP = Script(f"""
-- KEYS: space, dropped, writes. Renaming needs no memory, so that a full server can be emptied. Gives the format if it
-- is another one, 1 if there are cells to be removed.
local known = redis.call('HGET', KEYS[1], 'format')
if known and known ~= '{FORMAT.decode()}' then return known end
if known then
    redis.call('RENAME', KEYS[1], KEYS[2])
    redis.call('DEL', KEYS[3])
end
return redis.call('EXISTS', KEYS[2])
""")

REMOVE = Script("""
-- KEYS: dropped, index, cell keys. Removes them, of a dropped space only; gives 1 while there may be more.
local dropped, index = KEYS[1], KEYS[2]
if redis.call('EXISTS', dropped) == 0 then return 0 end
for i = 3, #KEYS do
    redis.call('UNLINK', KEYS[i])
    redis.call('ZREM', index, string.sub(KEYS[i], #index + 2))
end
if redis.call('EXISTS', index) == 1 then return 1 end
redis.call('DEL', dropped)
return 0
""")

SCRIPTS = (READ, WRITE, COUNT, DROP, REMOVE)
