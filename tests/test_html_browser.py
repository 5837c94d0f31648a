"""The HTML reports in a real browser: Debian's chromium, driven by its own driver, at desktop and phone width."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from balances import large_report
from conftest import NO_BROWSER, make_image
from outcomes import HOSTILE, clean_validation, full_validation, outcome_of
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from kto_data.decode import Decoded, Piece, PieceKind
from kto_data.encode import Encoded, ImageRef
from kto_data.report.balance.formats import FORMATS as BALANCE_FORMATS
from kto_data.report.balance.model import BalanceReport
from kto_data.report.cached_rows import ImagePlaces, ShownRow, rows_page
from kto_data.report.formats import FORMATS
from kto_data.report.outcome import Outcome
from kto_data.shard import CachedRow

WIDTHS = (1280, 360)
_CONTRAST = """
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(parse(node.namespaceURI.endsWith("svg") ? style.fill : style.color)), light(behind(node))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
"""


@dataclass(frozen=True)
class Report:
    """One report, as a file and as the numbers it must show."""

    path: Path
    numbers: dict[str, Any]  # the JSON report of the same outcome


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    folder = tmp_path_factory.mktemp("reports")

    def write(name: str, outcome: Outcome) -> Report:
        path = folder / f"{name}.html"
        path.write_text(FORMATS["html"](outcome), encoding="utf-8")
        return Report(path, json.loads(FORMATS["json"](outcome)))

    def write_balance(name: str, report: BalanceReport) -> Report:
        path = folder / f"{name}.html"
        path.write_text(BALANCE_FORMATS["html"](report), encoding="utf-8")
        return Report(path, json.loads(BALANCE_FORMATS["json"](report)))

    def write_rows(name: str, words: str) -> Report:
        path = folder / f"{name}.html"
        rows = [shown_row(number, words) for number in range(4)]
        path.write_text(
            rows_page("cache", rows, ImagePlaces(str(folder), str(folder / "images"), "none")), encoding="utf-8"
        )
        return Report(path, {"rows": len(rows), "pictures": len(rows)})

    make_image(folder / "red.png", 64, 48)
    hostile = full_validation(folder, 2_000, words=lambda rule, number: HOSTILE * 20, pointer=f"/{HOSTILE * 20}")
    return {
        "clean": write("clean", outcome_of(clean_validation(folder))),
        "full": write("full", outcome_of(full_validation(folder))),
        "hostile": write("hostile", outcome_of(hostile)),
        "balance": write_balance("balance", large_report()),
        "rows": write_rows("rows", "What is in this picture?"),
        "hostile rows": write_rows("hostile rows", HOSTILE.replace("\ud800", "") * 20),
        "hostile balance": write_balance("hostile balance", large_report(HOSTILE.replace("\ud800", ""))),
    }


def shown_row(number: int, words: str) -> ShownRow:
    """A row of a cache with two images, one of them there, and the same words in all that content may reach."""
    images = (ImageRef("red.png", "0", 64, 48, 12), ImageRef(words, "1", 2000, 1000, 5_000))
    special = Piece(PieceKind.SPECIAL, "<|im_start|>")
    prompt = (special, *(Piece(PieceKind.IMAGE, "", image) for image in images), Piece(PieceKind.TEXT, words))
    completion = (Piece(PieceKind.TEXT, f"line one\n\n    {words}\n{'x' * 3_000}"), special)
    row = CachedRow(Encoded([0] * 5_020, [1] * 30, images, num_cut=0), number % 2 == 0, words, number, words)
    return ShownRow(split="train", number=number, row=row, decoded=Decoded(prompt, completion))


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip(NO_BROWSER)  # no browser comes from a package index: what is left out is said by name
    options = ChromeOptions()
    options.binary_location = browser
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
        *("--disable-background-networking", "--disable-component-update", "--no-first-run", "--no-proxy-server"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options=options, service=ChromeService(executable_path=driver)) as opened:
        yield opened


def look_at(chrome: Chrome, report: Report, width: int = 1280, **media: str) -> None:
    """Open the report afresh. `media`: features of the screen, such as `prefers_color_scheme="dark"`."""
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for kind in ("browser", "performance"):
        chrome.get_log(kind)  # what was written before
    chrome.get(report.path.as_uri())


def text_of(chrome: Chrome, name: str) -> str:
    return chrome.find_element(By.ID, name).text


def visible_rules(chrome: Chrome) -> list[str]:
    return [rule.get_attribute("id") or "" for rule in chrome.find_elements(By.CSS_SELECTOR, ".rule:not([hidden])")]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["clean", "full", "hostile", "balance", "hostile balance", "rows", "hostile rows"])
def test_no_error_no_request_no_scrolling_sideways(
    chrome: Chrome, reports: dict[str, Report], name: str, width: int
) -> None:
    look_at(chrome, reports[name], width)
    for button in chrome.find_elements(By.ID, "unfold"):
        button.click()
    assert chrome.execute_script("return innerWidth") == width
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    assert chrome.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert reports[name].path.as_uri() in urls
    assert [url for url in urls if not url.startswith("data:") and url != reports[name].path.as_uri()] == []


@pytest.mark.parametrize("name", ["clean", "full", "hostile"])
def test_the_numbers_are_those_of_the_json_report(chrome: Chrome, reports: dict[str, Report], name: str) -> None:
    look_at(chrome, reports[name])
    summary = reports[name].numbers["summary"]
    for id_, key in (
        *(("total-error", "errors"), ("total-warning", "warnings"), ("total-info", "infos")),
        *(("rows", "rows"), ("rows-ok", "rows_ok")),
    ):
        assert text_of(chrome, id_) == f"{summary[key]:,}", key
    shown = {
        rule.get_attribute("id"): rule.find_element(By.CSS_SELECTOR, ".count b").text
        for rule in chrome.find_elements(By.CSS_SELECTOR, ".rule")
    }
    assert shown == {rule["code"]: f"{rule['count']:,}" for rule in reports[name].numbers["rules"] if rule["count"]}


def test_script_in_the_data_does_not_run(chrome: Chrome, reports: dict[str, Report]) -> None:
    look_at(chrome, reports["hostile"])
    assert chrome.title.startswith("Failed")
    assert len(chrome.find_elements(By.TAG_NAME, "script")) == 1
    assert chrome.find_elements(By.CSS_SELECTOR, "img, [onerror]") == []
    assert "<script>" in chrome.find_element(By.CSS_SELECTOR, ".samples bdi").text


def test_the_balance_is_that_of_the_json_report(chrome: Chrome, reports: dict[str, Report]) -> None:
    look_at(chrome, reports["balance"])
    splits = reports["balance"].numbers["splits"]
    assert text_of(chrome, "balance") == f"{splits['train']['weights']['balance']:.3g}"
    assert text_of(chrome, "kept") == f"{sum(split['counts']['kept'] for split in splits.values()):,}"
    assert text_of(chrome, "remark-count") == str(len(reports["balance"].numbers["remarks"]))
    look_at(chrome, reports["hostile balance"])
    assert chrome.title == "Label balance · ktodata preprocess"
    assert chrome.find_elements(By.CSS_SELECTOR, "script, img, [onerror]") == []


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_of_a_cache_are_shown_with_their_images_in_place(
    chrome: Chrome, reports: dict[str, Report], width: int
) -> None:
    look_at(chrome, reports["rows"], width)
    rows = chrome.find_elements(By.CSS_SELECTOR, ".row")
    assert len(rows) == reports["rows"].numbers["rows"]
    pictures = chrome.find_elements(By.CSS_SELECTOR, ".row img")
    assert len(pictures) == reports["rows"].numbers["pictures"]
    assert all(picture.get_property("naturalWidth") for picture in pictures)  # each of them could be decoded
    prompt, completion = rows[0].find_elements(By.CSS_SELECTOR, "pre")
    places = [prompt.text.index(text) for text in ("<|im_start|>", "red.png", "5,000 tokens", "not found")]
    assert places == sorted(places)
    assert completion.text.splitlines()[:3] == ["line one", "", "    What is in this picture?"]
    labels = [badge.text for badge in chrome.find_elements(By.CSS_SELECTOR, ".row .badge")]
    assert labels == ["desirable", "undesirable"] * 2


def test_script_in_a_row_of_a_cache_does_not_run(chrome: Chrome, reports: dict[str, Report]) -> None:
    look_at(chrome, reports["hostile rows"])
    assert chrome.title == "4 rows · ktodata inspect"
    assert chrome.find_elements(By.CSS_SELECTOR, "script, [onerror]") == []
    assert "<script>" in chrome.find_element(By.CSS_SELECTOR, ".row pre").text


def test_script_that_slips_through_is_not_run_either(
    chrome: Chrome, reports: dict[str, Report], tmp_path: Path
) -> None:
    text = reports["clean"].path.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("<main>", "<main><script>document.title='taken'</script>"), encoding="utf-8")
    look_at(chrome, Report(broken, {}))
    assert chrome.title.startswith("Passed")
    assert "Content Security Policy" in chrome.get_log("browser")[0]["message"]


def test_rules_are_filtered_by_severity(chrome: Chrome, reports: dict[str, Report]) -> None:
    look_at(chrome, reports["full"])
    rules = [rule for rule in reports["full"].numbers["rules"] if rule["count"]]
    assert len(visible_rules(chrome)) == len(rules)
    for severity in ("error", "info"):
        chrome.find_element(By.CSS_SELECTOR, f"input[value={severity}]").click()
    warnings = {rule["code"] for rule in rules if rule["severity"] == "warning"}
    assert set(visible_rules(chrome)) == warnings
    assert text_of(chrome, "shown") == f"{len(warnings)} of {len(rules)} rules"
    chrome.find_element(By.CSS_SELECTOR, "input[value=warning]").click()
    assert visible_rules(chrome) == []
    assert chrome.find_element(By.ID, "nothing").is_displayed()


def test_rules_are_filtered_by_words_of_their_name_and_of_their_findings(
    chrome: Chrome, reports: dict[str, Report]
) -> None:
    look_at(chrome, reports["full"])
    words = chrome.find_element(By.ID, "words")
    words.send_keys("Exact-Duplicate")
    assert visible_rules(chrome) == ["KTO601"]
    words.clear()
    words.send_keys("number 2,")
    assert "KTO601" in visible_rules(chrome)
    rule = chrome.find_element(By.ID, "KTO601")
    assert rule.get_attribute("open")  # so that what was found is seen
    shown = [item.text for item in rule.find_elements(By.CSS_SELECTOR, ".samples li") if item.is_displayed()]
    assert len(shown) == 1
    assert "number 2," in shown[0]
    words.clear()
    words.send_keys("no word of any rule" + Keys.ENTER)  # which must not load the page anew
    assert visible_rules(chrome) == []


def test_everything_is_reached_and_opened_by_keyboard(chrome: Chrome, reports: dict[str, Report]) -> None:
    look_at(chrome, reports["full"])
    reached = []
    for _ in range(12):
        chrome.switch_to.active_element.send_keys(Keys.TAB)
        element = chrome.switch_to.active_element
        reached.append(element.get_attribute("id") or element.tag_name)
        if element.tag_name == "summary":
            break
    assert {"a", "words", "input", "unfold", "summary"} <= set(reached)
    rule = chrome.find_element(By.CSS_SELECTOR, ".rule")
    was_open = rule.get_attribute("open")
    chrome.switch_to.active_element.send_keys(Keys.ENTER)
    assert rule.get_attribute("open") != was_open


def test_a_link_to_a_rule_opens_it(chrome: Chrome, reports: dict[str, Report]) -> None:
    look_at(chrome, reports["full"])
    chrome.get(f"{reports['full'].path.as_uri()}#KTO601")
    assert chrome.find_element(By.ID, "KTO601").get_attribute("open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["clean", "full", "balance", "rows"])
def test_text_stands_out_from_its_background(
    chrome: Chrome, reports: dict[str, Report], name: str, scheme: str
) -> None:
    look_at(chrome, reports[name], prefers_color_scheme=scheme)
    ratios = chrome.execute_script(_CONTRAST)
    assert len(ratios) > 30
    assert [entry for entry in ratios if entry[0] < 4.5] == []
    (brightness,) = {sum(map(int, chrome.execute_script(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g)"))) < 384}  # fmt: skip
    assert brightness == (scheme == "dark")


def test_the_page_is_whole_without_its_script(chrome: Chrome, reports: dict[str, Report]) -> None:
    chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        look_at(chrome, reports["full"])
    finally:
        chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert not chrome.find_element(By.ID, "filter").is_displayed()
    rule = chrome.find_elements(By.CSS_SELECTOR, ".rule")[-1]
    rule.find_element(By.TAG_NAME, "summary").click()
    assert rule.find_element(By.CSS_SELECTOR, ".samples li").is_displayed()


def test_what_is_folded_away_is_printed_all_the_same(chrome: Chrome, reports: dict[str, Report]) -> None:
    look_at(chrome, reports["full"])
    is_visible = "return [...document.querySelectorAll('.rule .samples li')].at(-1).checkVisibility()"
    assert chrome.execute_script(is_visible) is False
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert chrome.execute_script(is_visible) is True
    assert not chrome.find_element(By.ID, "filter").is_displayed()
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
