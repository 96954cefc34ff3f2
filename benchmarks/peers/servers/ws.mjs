// What most teams would write: `ws`, tokens by `jose`, the last events of each user in memory.
import http from 'node:http'
import { WebSocketServer } from 'ws'
import { internalListener, listen, userOf } from './common.mjs'

const kept = Number(process.env.BENCH_BUFFER)
const socketsOf = new Map()
const bufferOf = new Map()

function deliver (user, event) {
  const text = JSON.stringify(event)
  let buffer = bufferOf.get(user)
  if (buffer === undefined) bufferOf.set(user, (buffer = []))
  buffer.push({ at: Date.parse(event.timestamp), text })
  if (buffer.length > kept) buffer.shift()
  const sockets = socketsOf.get(user)
  if (sockets === undefined) return 0
  for (const socket of sockets) socket.send(text)
  return sockets.size
}

const wss = new WebSocketServer({ noServer: true, perMessageDeflate: false })
const server = http.createServer((_, response) => response.writeHead(404).end())
server.on('upgrade', async (request, stream, head) => {
  const query = new URL(request.url, 'http://localhost').searchParams
  let user
  try {
    user = await userOf(query.get('token'))
  } catch {
    stream.end('HTTP/1.1 401 Unauthorized\r\n\r\n')
    return
  }
  wss.handleUpgrade(request, stream, head, (socket) => {
    const since = Date.parse(query.get('lastEventTs'))
    if (!Number.isNaN(since)) {
      for (const { at, text } of bufferOf.get(user) ?? []) if (at > since) socket.send(text)
    }
    let sockets = socketsOf.get(user)
    if (sockets === undefined) socketsOf.set(user, (sockets = new Set()))
    sockets.add(socket)
    socket.on('error', () => socket.terminate())
    socket.on('close', () => {
      sockets.delete(socket)
      if (sockets.size === 0 && socketsOf.get(user) === sockets) socketsOf.delete(user)
    })
  })
})
listen(server, internalListener(deliver))
