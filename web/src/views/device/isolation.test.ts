import { expect, test } from 'vitest'

import { keptApart } from './isolation'

test('words say what an app is kept apart from', () => {
  expect(keptApart({})).toEqual([])
  expect(keptApart({ pid: 'host', seccomp: 'none', readOnlyRoot: false, maskedPaths: [] })).toEqual([])
  expect(keptApart({ pid: 'private', network: 'none', privateTmp: true, seccomp: 'strict', maskedPaths: ['/home', '/root'] })).toEqual([
    'own processes',
    'no network',
    'own /tmp',
    'seccomp: strict',
    '2 hidden paths',
  ])
})
