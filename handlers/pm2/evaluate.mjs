// node --input-type=module --eval THIS -- FILE OUT
// writes what the ecosystem file FILE exports to OUT, as {"apps": [...]}.
// Standard output is left to FILE itself.
import { readFileSync, writeFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'

const [, file, out] = process.argv
const fail = (text) => {
  console.error(text)
  process.exit(1)
}
const module = file.endsWith('.json') ? JSON.parse(readFileSync(file, 'utf8')) : await import(pathToFileURL(file))
let found = module?.default ?? module
if (typeof found === 'function') fail('it exports a function, which pm2 does not call; export an object with apps')
if (Array.isArray(found)) found = { apps: found }
else if (!found?.apps && found?.script) found = { apps: [found] }
if (typeof found?.apps === 'function') fail('apps is a function, which pm2 does not call; export a list')
if (!found?.apps) fail('it exports no apps')
writeFileSync(out, JSON.stringify({ apps: [found.apps].flat() }))
process.exit(0)
