import { describe, expect, it } from 'vitest'

import { SseParser, type SseMessage } from './sse'

const TEXT = ': hello\n\nid: 7\nevent: device.online\ndata: {"a":1}\n\ndata: one\ndata: two\n\nevent: reset\n\n'
const WHOLE: SseMessage[] = [
  { event: 'comment', data: 'hello', id: undefined },
  { event: 'device.online', data: '{"a":1}', id: '7' },
  { event: 'message', data: 'one\ntwo', id: undefined },
  { event: 'reset', data: '', id: undefined },
]

describe('the parser of event streams', () => {
  it('reads the same messages wherever the pieces are cut', () => {
    for (let cut = 0; cut <= TEXT.length; cut += 1) {
      const parser = new SseParser()
      expect([...parser.push(TEXT.slice(0, cut)), ...parser.push(TEXT.slice(cut))]).toEqual(WHOLE)
    }
    const parser = new SseParser()
    expect(Array.from(TEXT).flatMap((character) => parser.push(character))).toEqual(WHOLE)
  })

  it('takes carriage returns as line ends too', () => {
    const parser = new SseParser()
    expect(parser.push(TEXT.replaceAll('\n', '\r\n'))).toEqual(WHOLE)
  })

  it('keeps what is not finished, and takes one space only off a value', () => {
    const parser = new SseParser()
    expect(parser.push('data:  padded')).toEqual([])
    expect(parser.push('\n')).toEqual([])
    expect(parser.push('\n')).toEqual([{ event: 'message', data: ' padded', id: undefined }])
  })
})
