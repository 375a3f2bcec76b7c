/** Makes a silence, of one alert's thing or of whatever is written. */
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'

import { ApiError, keyring, post } from '~/api/client'
import type { Alert, Matcher, Silence } from '~/api/incidents'
import { keys } from '~/api/queries'
import { announce } from '~/ui/announce'
import { Button } from '~/ui/button'
import { Dialog } from '~/ui/dialog'
import { Field } from '~/ui/form'
import { Failure } from '~/ui/panel'

import { parseMatchers } from './matchers'

const HOUR_MS = 3_600_000
const HOURS = [1, 2, 8, 24, 168] as const

const FIRST = ['device', 'rollout', 'app'] as const

/** What silences this alert and nothing else. */
function matchersOf(alert: Alert | undefined): string {
  if (!alert) return 'location='
  const name = FIRST.find((label) => alert.labels[label] !== undefined)
  return [`alertname=${alert.rule}`, ...(name === undefined ? [] : [`${name}=${alert.labels[name]}`])].join(', ')
}

export function SilenceDialog({ alert, onClose }: { alert: Alert | undefined; onClose: () => void }) {
  const client = useQueryClient()
  const [keyOf] = useState(keyring)
  const [name, setName] = useState(() => `silence-${Date.now().toString(36)}`)
  const [text, setText] = useState(() => matchersOf(alert))
  const [hours, setHours] = useState<number>(2)
  const [comment, setComment] = useState('')
  const [wrong, setWrong] = useState<string | undefined>()
  const run = useMutation({
    mutationFn: (matchers: Matcher[]) => {
      const body = { metadata: { name }, spec: { matchers, endsAt: Date.now() + hours * HOUR_MS, comment } }
      return post<Silence>('/silences', body, keyOf(body))
    },
    onSuccess: () => {
      announce('Silence made')
      void client.invalidateQueries({ queryKey: keys.silences })
      void client.invalidateQueries({ queryKey: keys.alerts })
      onClose()
    },
  })
  const field = (of: string): string | undefined => (run.error instanceof ApiError ? run.error.field(of) : undefined)
  return (
    <Dialog
      title={alert ? `Silence ${alert.subject.name}` : 'New silence'}
      onClose={onClose}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button
            kind="primary"
            busy={run.isPending}
            onClick={() => {
              const read = parseMatchers(text)
              const matchers = Array.isArray(read) && read.length === 0 ? 'Write at least one matcher.' : read
              setWrong(typeof matchers === 'string' ? matchers : undefined)
              if (typeof matchers !== 'string') run.mutate(matchers)
            }}
          >
            Silence
          </Button>
        </>
      }
    >
      <div className="flex flex-col gap-3">
        <p>Alerts that match are still shown, and nobody is told of them until the silence ends.</p>
        <Field label="Name" error={field('name')}>
          {(ids) => <input {...ids} className="field w-full" value={name} onChange={(e) => setName(e.target.value)} />}
        </Field>
        <Field label="Matches" error={wrong ?? field('matchers')} help="All must hold: location=Riga, device=kiosk-7, app!=web">
          {(ids) => <textarea {...ids} className="field h-16 w-full font-mono" value={text} onChange={(e) => setText(e.target.value)} />}
        </Field>
        <Field label="For" error={field('endsAt')}>
          {(ids) => (
            <select {...ids} className="field w-full" value={hours} onChange={(e) => setHours(Number(e.target.value))}>
              {HOURS.map((h) => (
                <option key={h} value={h}>
                  {h < 24 ? `${h} h` : `${h / 24} d`}
                </option>
              ))}
            </select>
          )}
        </Field>
        <Field label="Comment" error={field('comment')}>
          {(ids) => <input {...ids} className="field w-full" value={comment} onChange={(e) => setComment(e.target.value)} />}
        </Field>
        {run.isError && <Failure what="That did not work" error={run.error} />}
      </div>
    </Dialog>
  )
}
