import { describe, expect, it } from 'vitest'

import { join, split } from './words'

describe('words on a line', () => {
  it('are kept together by quotes', () => {
    expect(split('  /bin/sh -c "echo  a" ""  b"c d"e ')).toEqual(['/bin/sh', '-c', 'echo  a', '', 'bc de'])
    expect(split('/bin/grep \\d+ x')).toEqual(['/bin/grep', '\\d+', 'x'])
    expect(split('a "b c')).toEqual(['a', 'b c'])
  })

  it('come back as they were', () => {
    for (const words of [[], ['a'], ['', ' ', '"', '\\', 'a\\"b', '\\d+', 'a\tb', 'echo "x y" > /dev/null']]) {
      expect(split(join(words))).toEqual(words)
    }
  })
})
