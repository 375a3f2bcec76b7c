/** A field with its label, its help and what is wrong with it. */
import { useId, type ReactNode } from 'react'

interface Props {
  label: string
  help?: ReactNode
  error?: string | undefined
  children: (ids: { id: string; 'aria-describedby': string | undefined; 'aria-invalid': boolean | undefined }) => ReactNode
  className?: string
}

export function Field({ label, help, error, children, className }: Props) {
  const id = useId()
  const note = `${id}-note`
  const has = help !== undefined || error !== undefined
  return (
    <div className={className}>
      <label htmlFor={id} className="mb-1 block font-medium">
        {label}
      </label>
      {children({ id, 'aria-describedby': has ? note : undefined, 'aria-invalid': error === undefined ? undefined : true })}
      {has && (
        <p id={note} className={error === undefined ? 'mt-1 text-sm text-muted' : 'mt-1 text-sm text-bad'}>
          {error ?? help}
        </p>
      )}
    </div>
  )
}

/** `store=12, role=till` as labels; a message when it can't be read. */
export function parseLabels(text: string): { labels: Record<string, string> } | { wrong: string } {
  const labels: Record<string, string> = {}
  for (const part of text.split(/[\s,]+/).filter(Boolean)) {
    const [key = '', value, ...more] = part.split('=')
    if (key === '' || value === undefined || more.length > 0) return { wrong: `“${part}” is no label: write key=value.` }
    labels[key] = value
  }
  return { labels }
}
