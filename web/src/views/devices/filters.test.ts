import { describe, expect, it } from 'vitest'

import { addText, chips, command, parseFilters, requirements, toggle } from './filters'

describe('filters of the device list', () => {
  it('reads fields, labels and words out of one line', () => {
    expect(addText({}, 'reachability=offline store=12 site in (a, b), !canary kiosk-7 till')).toEqual({
      reachability: 'offline',
      labelSelector: 'store=12,site in (a,b),!canary',
      q: 'kiosk-7 till',
    })
  })

  it('takes a field with != as a label, because fields are only compared for equality', () => {
    expect(addText({}, 'channel!=prod')).toEqual({ labelSelector: 'channel!=prod' })
  })

  it('adds to what is there and does not double it', () => {
    expect(addText({ labelSelector: 'a=1' }, 'a=1 b==2')).toEqual({ labelSelector: 'a=1,b=2' })
  })

  it('never loops on text that is no filter', () => {
    for (const text of ['', ' ', '!!!', '(((', '=', ',,,', 'a in (', 'é=ü', '"quoted words"']) {
      expect(addText({}, text)).toBeTypeOf('object')
    }
  })

  it('cuts a selector at its commas but not inside brackets', () => {
    expect(requirements('a in (x,y),b=1,!c')).toEqual(['a in (x,y)', 'b=1', '!c'])
  })

  it('gives a chip for each part, which takes only that part away', () => {
    const filters = { labelSelector: 'a in (x,y),b=1', health: 'failing', q: 'till', sort: '-lastSeen' }
    expect(chips(filters).map((c) => c.text)).toEqual(['a in (x,y)', 'b=1', 'health=failing', '“till”'])
    expect(chips(filters)[0]?.without).toEqual({ ...filters, labelSelector: 'b=1' })
    expect(chips(filters)[2]?.without).toEqual({ labelSelector: 'a in (x,y),b=1', q: 'till', sort: '-lastSeen' })
  })

  it('says the command that lists the same, quoted for a shell', () => {
    expect(command({ labelSelector: "a in (x,y),b=it's", health: 'failing' })).toBe(
      String.raw`farshore get devices -l 'a in (x,y),b=it'\''s' --field-selector health=failing`,
    )
  })

  it('takes only known text out of an address', () => {
    expect(parseFilters({ q: 7, health: '  ', evil: 'x', location: ['a'], sort: 'name' })).toEqual({ q: '7', sort: 'name' })
  })

  it('toggles a field off when it is picked again', () => {
    expect(toggle({ health: 'failing' }, 'health', 'failing')).toEqual({})
    expect(toggle({ health: 'failing' }, 'health', 'healthy')).toEqual({ health: 'healthy' })
  })
})
