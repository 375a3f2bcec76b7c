import { expect, it } from 'vitest'

import { parseNext } from './next'

it('keeps addresses of this page and drops all others', () => {
  expect(parseNext({ next: '/devices?q=till' })).toEqual({ next: '/devices?q=till' })
  for (const next of ['//evil.example/', '/\\evil.example', '/\t/evil.example', 'https://evil.example/', 'javascript:alert(1)', '', 7, undefined]) {
    expect(parseNext({ next })).toEqual({})
  }
})
