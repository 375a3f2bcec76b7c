/** Text to copy: a button that says when it did, and a command line with one. */
import { useEffect, useState } from 'react'

import { announce } from './announce'
import { buttonClass } from './button'
import { Icon } from './icon'

/** The clipboard needs a secure context; a hidden field does it elsewhere. */
async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    const area = document.createElement('textarea')
    area.value = text
    area.style.position = 'fixed'
    area.style.opacity = '0'
    ;(document.querySelector('dialog[open]') ?? document.body).append(area)
    area.select()
    const done = document.execCommand('copy')
    area.remove()
    return done
  }
}

const SHOWN_MS = 1600

export function CopyButton({ text, label, small = true }: { text: string | (() => string); label: string; small?: boolean }) {
  const [state, setState] = useState<'idle' | 'copied' | 'failed'>('idle')
  useEffect(() => {
    if (state === 'idle') return
    const timer = setTimeout(() => setState('idle'), SHOWN_MS)
    return () => clearTimeout(timer)
  }, [state])
  return (
    <button
      type="button"
      className={`${buttonClass('ghost', small)} ${small ? '' : 'max-sm:hidden'}`}
      onClick={() => {
        void copyText(typeof text === 'string' ? text : text()).then((done) => {
          setState(done ? 'copied' : 'failed')
          announce(done ? 'Copied' : 'Copying failed')
        })
      }}
    >
      <Icon name={state === 'copied' ? 'check' : 'copy'} size={14} />
      {state === 'idle' ? label : state === 'copied' ? 'Copied' : 'Not copied'}
    </button>
  )
}

/** A command, exactly as it is typed. */
export function Command({ text, label = 'Copy' }: { text: string; label?: string }) {
  return (
    <div className="flex items-start gap-2 rounded border border-line bg-sunken py-1 pr-1 pl-3">
      <pre className="min-w-0 flex-1 overflow-x-auto py-0.5 font-mono text-sm whitespace-pre-wrap [overflow-wrap:anywhere]">
        <span className="text-muted select-none">$ </span>
        {text}
      </pre>
      <CopyButton text={text} label={label} />
    </div>
  )
}
