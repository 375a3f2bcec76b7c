/** A route as the form holds it, and the specification that it stands for. */
import type { AlertRouteSpec, Severity } from '~/api/incidents'

import { matchersText, parseMatchers } from './matchers'

export interface RouteDraft {
  type: 'webhook' | 'email'
  enabled: boolean
  sendResolved: boolean
  minSeverity: Severity
  groupWaitSeconds: string
  matchers: string
  url: string
  format: 'farshore' | 'alertmanager'
  secret: string
  to: string
  from: string
  host: string
  port: string
  tls: 'tls' | 'starttls' | 'none'
  ca: string
  username: string
  password: string
}

export function draftOf(spec: AlertRouteSpec | undefined): RouteDraft {
  return {
    type: spec?.type ?? 'webhook',
    enabled: spec?.enabled ?? true,
    sendResolved: spec?.sendResolved ?? true,
    minSeverity: spec?.minSeverity ?? 'warning',
    groupWaitSeconds: String(spec?.groupWaitSeconds ?? 10),
    matchers: matchersText(spec?.matchers ?? []),
    url: spec?.webhook?.url ?? '',
    format: spec?.webhook?.format ?? 'farshore',
    secret: '',
    to: spec?.email?.to.join(', ') ?? '',
    from: spec?.email?.from ?? '',
    host: spec?.email?.host ?? '',
    port: String(spec?.email?.port ?? 587),
    tls: spec?.email?.tls ?? 'starttls',
    ca: spec?.email?.ca ?? '',
    username: spec?.email?.username ?? '',
    password: '',
  }
}

/** A number where one was typed; the text as it is otherwise, so that the server says what is wrong with it. */
const figure = (text: string): number => {
  const value = Number(text)
  return (text === '' || Number.isNaN(value) ? text : value) as number
}

const given = <K extends string>(name: K, value: string): Partial<Record<K, string>> => (value.trim() === '' ? {} : ({ [name]: value } as Record<K, string>))

/** The specification; what is wrong with the matchers when they can't be read. */
export function specOf(draft: RouteDraft): AlertRouteSpec | string {
  const matchers = parseMatchers(draft.matchers)
  if (typeof matchers === 'string') return matchers
  const { type, enabled, sendResolved, minSeverity } = draft
  const spec = { type, enabled, sendResolved, minSeverity, matchers, groupWaitSeconds: figure(draft.groupWaitSeconds) }
  if (type === 'webhook') return { ...spec, webhook: { url: draft.url, format: draft.format, ...given('secret', draft.secret) } }
  const { from, host, tls } = draft
  const to = draft.to.split(/[,\n]/).map((address) => address.trim()).filter(Boolean)
  const ca = tls === 'none' ? {} : given('ca', draft.ca)
  return { ...spec, email: { to, from, host, port: figure(draft.port), tls, ...ca, ...given('username', draft.username), ...given('password', draft.password) } }
}
