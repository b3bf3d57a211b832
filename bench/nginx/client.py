#!/usr/bin/python3
"""client.py PORT REQUESTS: that many requests over one connection, one after the other, cycling through TARGETS."""
import socket
import sys

# What people ask for: none is refused by any filter.
TARGETS = [
    "/",
    "/index.html",
    "/products/42?color=red&size=xl",
    "/images/2024/logo-small.png",
    "/search?q=description+of+a+script&page=2&lang=en",
    "/api/v1/users/1234/orders/5678?fields=id,name,price&sort=-date",
    "/search?q=caf%C3%A9%20au%20lait",
    "/blog/2024/05/17/how-to-write-a-firewall-that-nobody-notices",
]


def read_answer(connection, buffer):
    while b"\r\n\r\n" not in buffer:
        buffer += receive(connection)
    head, _, rest = buffer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"client: {head.decode(errors='replace')}")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(rest) < length:
        rest += receive(connection)
    return rest[length:]


def receive(connection):
    data = connection.recv(65536)
    if not data:
        sys.exit("client: connection closed")
    return data


def main(port, requests):
    buffer = b""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        for number in range(requests):
            target = TARGETS[number % len(TARGETS)]
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: client\r\n\r\n".encode())
            buffer = read_answer(connection, buffer)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
