import { expect, it } from 'vitest'

import { toYaml } from './yaml'

it('writes nested objects, lists and text that YAML would misread', () => {
  expect(
    toYaml({ kind: 'Device', metadata: { name: 'till-1', labels: { store: '12', on: 'true' } }, list: [{ a: 1, b: [] }, 'x: y'], none: {}, gone: undefined }),
  ).toBe(`kind: Device
metadata:
  name: till-1
  labels:
    store: "12"
    "on": "true"
list:
  - a: 1
    b: []
  - "x: y"
none: {}
`)
})
