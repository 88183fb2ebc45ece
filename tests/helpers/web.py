"""What tests ask servers by: one client, as reading the certificates anew takes longer than most answers.

It waits long, since only a test that fails does, and it keeps no cookie and no connection: each request is a
stranger's.
"""

from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

PATIENCE = 300  # seconds
web = httpx.Client(
    timeout=PATIENCE,
    trust_env=False,
    limits=httpx.Limits(max_keepalive_connections=0),
    cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
)
