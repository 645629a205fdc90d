"""What is somebody's is masked, what only looks so stays: examples of both, by hand."""

from typing import get_args

import pytest

from ropewalk.corpus.clean.pii import mask
from ropewalk.corpus.spec import Source
from ropewalk.corpus.text.profile import PROFILES, Personal

ALL: tuple[Personal, ...] = get_args(Personal)
IP, MAIL, MOBILE, IDENTITY = "192.0.2.1", "name@example.com", "13000000000", "000000000000000000"

SOMEBODYS = {
    # addresses of machines that stand for people
    "Connection from 93.184.216.34 refused": f"Connection from {IP} refused",
    "93.184.216.34 - - [12/Mar/2024:10:00:00] GET /": f"{IP} - - [12/Mar/2024:10:00:00] GET /",
    "ssh root@45.33.32.156": f"ssh root@{IP}",
    "ip=185.199.108.153;": f"ip={IP};",
    "http://104.244.42.193:8080/x": f"http://{IP}:8080/x",
    "用户从116.62.93.118登录": f"用户从{IP}登录",
    "来源IP：202.96.134.133，端口80": f"来源IP：{IP}，端口80",
    "from 203.208.60.1 to 203.208.61.1": f"from {IP} to {IP}",
    "X-Forwarded-For: 61.135.169.121, 10.0.0.7": f"X-Forwarded-For: {IP}, 10.0.0.7",
    "(host 217.160.0.187)": f"(host {IP})",
    "banned 91.198.174.192/32 today": f"banned {IP}/32 today",
    "他的地址是 58.217.200.113。": f"他的地址是 {IP}。",
    # mail
    "write to jane.doe@mail.uni-bonn.de today": f"write to {MAIL} today",
    "<zhang.wei@pku.edu.cn>": f"<{MAIL}>",
    "邮箱：liming_88@163.com，请联系": f"邮箱：{MAIL}，请联系",
    "mailto:o'neil+news@gmail.com": f"mailto:o'{MAIL}",
    "joe@proton.me:hunter2": f"{MAIL}:hunter2",
    "请联系13912345677人事部": f"请联系{MOBILE}人事部",
    "拨打13912345677次日回复": f"拨打{MOBILE}次日回复",
    "toll-free 13912345677": f"toll-free {MOBILE}",
    "QQ邮箱 12345@qq.com": f"QQ邮箱 {MAIL}",
    "a@b.co, c@d.org": f"{MAIL}, {MAIL}",
    "Mail me: max@firma.de: thanks": f"Mail me: {MAIL}: thanks",
    "github-user@users.noreply.github.com": MAIL,
    # telephone numbers
    "手机号：13912345677": f"手机号：{MOBILE}",
    "请拨打 186-1234-5670 咨询": f"请拨打 {MOBILE} 咨询",
    "电话是15012340987。": f"电话是{MOBILE}。",
    "+8613712345670": f"+86{MOBILE}",
    "+86 199 0123 4567": f"+86 {MOBILE}",
    "账号：17712345678": f"账号：{MOBILE}",
    "Phone No. 13566677788, ask for Li": f"Phone No. {MOBILE}, ask for Li",
    "tel=18812345679&x=1": f"tel={MOBILE}&x=1",
    "微信同号：13212344321": f"微信同号：{MOBILE}",
    # identity numbers
    "身份证号：110105199003072338。": f"身份证号：{IDENTITY}。",
    "公民身份号码440106198512240019": f"公民身份号码{IDENTITY}",
    "ID 310104197806159877": f"ID {IDENTITY}",
    # keys
    "token ghp_" + "Zx9k" * 9: "token [KEY]",
    "export KEY=AKIAQ3EGWLXYZ7H2K4MN": "export KEY=[KEY]",
}

NOBODYS = [
    # versions
    "version 4.17.100.9 is out", "Version: 98.0.47.102", "V98.0.47.102", "v 98.0.47.102", "Release 35.12.200.4",
    "Chrome/98.0.47.102 Safari/537.36", "curl-93.184.216.34.tar.gz", "pip install torch==45.33.32.156",
    "libfoo>=93.184.216.34", "版本号：45.33.32.156", "固件 93.184.216.34", "foo 98.0.47.102-beta", "98.0.47.102+build5",
    "firmware 45.120.9.200", "build 35.33.32.1",
    # sections and other numbered parts
    "see section 1.2.3.4", "Section 45.33.2.1 applies", "§ 45.33.32.1 BGB", "sections 45.33.2.1 and 45.33.2.2",
    "clauses 41.2.3.9, 41.2.3.10 and 41.2.3.11", "Table 93.18.21.34", "Fig. 98.2.3.4 shows", "第45.33.2.1条规定",
    "见图 45.33.2.1", "附录 93.1.2.3", "5.33.42.1 Definitions", "## 12.34.56.79 Scope", "1.2.3.4.5 is a section",
    # addresses that belong to nobody
    "localhost is 127.0.0.1", "bind 0.0.0.0:80", "nameserver 8.8.8.8", "use 8.8.4.4 or 1.1.1.1 or 1.0.0.1",
    "netmask 255.255.255.0", "192.168.178.1 and 10.11.12.13 and 172.16.254.3", "DNS 114.114.114.114 与 223.5.5.5",
    "multicast 224.0.0.251", "link-local 169.254.17.3", "test nets 192.0.2.77 198.51.100.3 203.0.113.9",
    "the block 93.184.216.0/24", "e.g. 12.34.56.78", "300.1.1.1", "root server 198.41.0.4", "第八.8.8.8",
    # logins and examples that look like mail
    "git clone git@github.com:user/repo.git", "ssh://git@gitlab.company.com/a/b",
    "scp x deploy@web01.firma.de:/var/www",
    "rsync me@build.firma.de:out/log .", "user@example.com", "a.b@mail.example.org", "root@server.local",
    "you@host.invalid", "noreply@firma.de", "do-not-reply@shop.cn", "icon@2x.png", "a@b is no address", "@user.name",
    "logo@brand.svg", "me@db.internal",
    # other numbers
    "订单号：13912345677", "运单号13912345677", "order 13912345677", "Invoice no. 13912345677", "￥13912345677",
    "13912345677元", "13912345677 bytes", "序列号：13912345677", "timestamp=13912345677", "π is 3.13812345678",
    "order 2013912345677", "svmem(free=15482871808, used: 13912345677)",
    "read_bytes=18626220032", "客服热线 13800138000", "流水号 440106198512240019", "例如11010519491231002X",
    "440106198512240018", "id 13912345677a",
]  # fmt: skip


def test_there_are_enough_examples() -> None:
    assert len(SOMEBODYS) >= 30 and len(NOBODYS) >= 30


@pytest.mark.parametrize("text", SOMEBODYS)
def test_what_is_somebody_s_is_masked(text: str) -> None:
    assert mask(text, ALL) == SOMEBODYS[text]
    assert mask(SOMEBODYS[text], ALL) == SOMEBODYS[text], "a placeholder is nobody's"


@pytest.mark.parametrize("text", NOBODYS)
def test_what_is_nobody_s_stays(text: str) -> None:
    assert mask(text, ALL) == text
    assert mask(f"Text before.\n{text}\nText after.", ALL) == f"Text before.\n{text}\nText after."


def test_nothing_is_masked_in_instructions_unless_it_is_asked_for() -> None:
    assert PROFILES["instruction"].mask == ()
    assert Source(name="chat", path="x", role="instruction").cleaning("en").mask == ()
    asked = Source.model_validate(
        {"name": "chat", "path": "x", "role": "instruction", "profile": {"like": "instruction", "mask": ["email"]}}
    )
    assert asked.cleaning("en").mask == ("email",)
