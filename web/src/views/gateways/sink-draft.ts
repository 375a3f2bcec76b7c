/** A sink as the form holds it, and the specification that it stands for. */
import type { SinkSpec } from '~/api/sinks'

export interface SinkDraft {
  type: SinkSpec['type']
  enabled: boolean
  streams: string
  measurements: string
  selector: string
  start: SinkSpec['start']
  url: string
  secret: string
  everySeconds: string
  keepDays: string
}

export function draftOf(spec: SinkSpec | undefined): SinkDraft {
  return {
    type: spec?.type ?? 'webhook',
    enabled: spec?.enabled ?? true,
    streams: (spec?.streams ?? []).join(', '),
    measurements: (spec?.measurements ?? []).join(', '),
    selector: spec?.selector ?? '',
    start: spec?.start ?? 'now',
    url: spec?.webhook?.url ?? spec?.otlp?.url ?? '',
    secret: '',
    everySeconds: String(spec?.parquet?.everySeconds ?? 3600),
    keepDays: String(spec?.parquet?.keepDays ?? 400),
  }
}

const names = (text: string): string[] => text.split(',').map((name) => name.trim()).filter(Boolean)

/** A number where one was typed; the text as it is otherwise, so that the server says what is wrong with it. */
const figure = (text: string): number => {
  const value = Number(text)
  return (text === '' || Number.isNaN(value) ? text : value) as number
}

export function specOf(draft: SinkDraft): SinkSpec {
  const { type, enabled, start, url } = draft
  const spec = {
    type,
    enabled,
    start,
    streams: names(draft.streams),
    measurements: names(draft.measurements),
    ...(draft.selector.trim() === '' ? {} : { selector: draft.selector.trim() }),
  }
  if (type === 'parquet') return { ...spec, parquet: { everySeconds: figure(draft.everySeconds), keepDays: figure(draft.keepDays) } }
  if (type === 'otlp') return { ...spec, otlp: { url, ...(draft.secret === '' ? {} : { authorization: draft.secret }) } }
  return { ...spec, webhook: { url, ...(draft.secret === '' ? {} : { secret: draft.secret }) } }
}
