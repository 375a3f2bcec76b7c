/** A state: shape + word + colour, with its definition and reasons on hover and focus. */
import type { ReactNode } from 'react'

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

const SHAPES: Record<Shape, ReactNode> = {
  full: <circle cx="6" cy="6" r="4" fill="currentColor" stroke="none" />,
  half: (
    <>
      <circle cx="6" cy="6" r="3.6" />
      <path d="M6 2.4a3.6 3.6 0 0 1 0 7.2z" fill="currentColor" stroke="none" />
    </>
  ),
  ring: <circle cx="6" cy="6" r="3.6" />,
  check: <path d="m2 6.5 2.7 2.7L10 3.5" />,
  bang: <path d="M6 1.8v5M6 9.8v.1" strokeWidth="2" />,
  cross: <path d="m2.8 2.8 6.4 6.4M9.2 2.8 2.8 9.2" />,
  question: <path d="M4 4.2A2 2 0 1 1 6.8 6c-.6.3-.8.7-.8 1.3M6 10v.1" />,
  equal: <path d="M2.2 4.5h7.6M2.2 7.8h7.6" />,
  arrow: <path d="M1.8 6h8M6.8 3l3 3-3 3" />,
  unequal: <path d="M2.2 4.5h7.6M2.2 7.8h7.6M8 1.8 4 10.4" />,
  bars: <path d="M4 2.5v7M8 2.5v7" strokeWidth="2" />,
  empty: (
    <>
      <circle cx="6" cy="6" r="3.6" />
      <path d="M9.6 2.4 2.4 9.6" />
    </>
  ),
  dot: <circle cx="6" cy="6" r="2" fill="currentColor" stroke="none" />,
  back: <path d="M10 9.5V7a2.5 2.5 0 0 0-2.5-2.5H2.2M4.8 2 2.2 4.5 4.8 7" />,
}

export function Glyph({ shape, tone, size = 12 }: { shape: Shape; tone: Tone; size?: number }) {
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 12 12"
      fill="none"
      stroke="currentColor"
      strokeWidth="1.5"
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
      className={cx('shrink-0', TONE_TEXT[tone])}
    >
      {SHAPES[shape]}
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
