/** The sheet of keys, opened with `?`: everything that works here and now. */
import { Dialog } from '~/ui/dialog'

import { useKeyGroups } from './keys'

const SHOWN: Record<string, string> = { mod: 'Ctrl', Enter: '↵', ArrowDown: '↓', ArrowUp: '↑' }

export function Keys({ keys }: { keys: string }) {
  return (
    <span className="flex gap-1">
      {keys.split(/[ +]/).map((key) => (
        <kbd key={key} className="kbd">
          {SHOWN[key] ?? key}
        </kbd>
      ))}
    </span>
  )
}

export function KeySheet({ onClose }: { onClose: () => void }) {
  const groups = useKeyGroups()
  return (
    <Dialog title="Keys" onClose={onClose} wide>
      <div className="grid gap-x-10 gap-y-5 sm:grid-cols-2">
        {groups.map((group) => (
          <section key={group.title}>
            <h3 className="mb-1 text-sm text-muted">{group.title}</h3>
            <dl>
              {group.bindings.map((binding) => (
                <div key={binding.keys} className="flex items-center justify-between gap-4 border-b border-line py-1">
                  <dt>{binding.does}</dt>
                  <dd>
                    <Keys keys={binding.keys} />
                  </dd>
                </div>
              ))}
            </dl>
          </section>
        ))}
      </div>
    </Dialog>
  )
}
