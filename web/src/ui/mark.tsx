/** A state: shape + word + colour, with its definition and reasons on hover and focus. */
import type { Reason } from '~/api/types'

import { cx } from './cx'
import { Hint } from './hint'
import { look, type Dimension, type Look, type Shape, type Tone } from './state'
import { Time } from './time'

export const TONE_TEXT: Record<Tone, string> = {
  ok: 'text-ok',
  warn: 'text-warn',
  bad: 'text-bad',
  info: 'text-accent',
  quiet: 'text-muted',
}

export const TONE_FILL: Record<Tone, string> = {
  ok: 'bg-ok',
  warn: 'bg-warn',
  bad: 'bg-bad',
  info: 'bg-accent',
  quiet: 'bg-line-strong',
}

const RING = 'M2.4 6a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0'

/** A drawn line and a filled area for each: always the same two elements, so that a row of a long list that shows another device only changes them. */
const SHAPES: Record<Shape, { line?: string; area?: string; width?: number }> = {
  full: { area: 'M2 6a4 4 0 1 0 8 0a4 4 0 1 0-8 0' },
  half: { line: RING, area: 'M6 2.4a3.6 3.6 0 0 1 0 7.2z' },
  ring: { line: RING },
  check: { line: 'm2 6.5 2.7 2.7L10 3.5' },
  bang: { line: 'M6 1.8v5M6 9.8v.1', width: 2 },
  cross: { line: 'm2.8 2.8 6.4 6.4M9.2 2.8 2.8 9.2' },
  question: { line: 'M4 4.2A2 2 0 1 1 6.8 6c-.6.3-.8.7-.8 1.3M6 10v.1' },
  equal: { line: 'M2.2 4.5h7.6M2.2 7.8h7.6' },
  arrow: { line: 'M1.8 6h8M6.8 3l3 3-3 3' },
  unequal: { line: 'M2.2 4.5h7.6M2.2 7.8h7.6M8 1.8 4 10.4' },
  bars: { line: 'M4 2.5v7M8 2.5v7', width: 2 },
  empty: { line: `${RING}M9.6 2.4 2.4 9.6` },
  dot: { area: 'M4 6a2 2 0 1 0 4 0a2 2 0 1 0-4 0' },
  back: { line: 'M10 9.5V7a2.5 2.5 0 0 0-2.5-2.5H2.2M4.8 2 2.2 4.5 4.8 7' },
}

export function Glyph({ shape, tone, size = 12 }: { shape: Shape; tone: Tone; size?: number }) {
  const { line, area, width } = SHAPES[shape]
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 12 12"
      fill="none"
      stroke="currentColor"
      strokeWidth={width ?? 1.5}
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
      className={cx('shrink-0', TONE_TEXT[tone])}
    >
      <path d={line} />
      <path d={area} fill="currentColor" stroke="none" />
    </svg>
  )
}

interface MarkProps {
  word: string
  look: Look
  reasons?: Reason[]
  /** In lists marks are many: they answer to hover only, and the device's page answers to focus too. */
  focusable?: boolean
  className?: string
}

export function Mark({ word, look, reasons = [], focusable = false, className }: MarkProps) {
  const body = (
    <span
      className={cx('inline-flex items-center gap-1.5 whitespace-nowrap', className)}
      {...(focusable ? { tabIndex: 0, role: 'note', 'aria-label': `${word}. ${look.means}` } : {})}
    >
      <Glyph shape={look.shape} tone={look.tone} />
      <span className={look.tone === 'bad' || look.tone === 'warn' ? TONE_TEXT[look.tone] : undefined}>{word}</span>
    </span>
  )
  return (
    <Hint
      text={
        <>
          <strong className="font-semibold">{word}</strong>
          <span className="block text-muted">{look.means}</span>
          {reasons.length > 0 && (
            <span className="mt-1.5 block border-t border-line pt-1.5">
              {reasons.slice(0, 4).map((reason) => (
                <span key={`${reason.code}${reason.since}`} className="block">
                  {reason.message} <Time at={reason.since} className="text-muted" />
                </span>
              ))}
            </span>
          )}
        </>
      }
    >
      {body}
    </Hint>
  )
}

export function State({ of, word, ...rest }: { of: Dimension; word: string } & Omit<MarkProps, 'look' | 'word'>) {
  return <Mark word={word} look={look(of, word)} {...rest} />
}
