"""Function words of a few languages: a phrase that begins or ends with one is no keyword."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

from lepton_edge.keywords.phrases import folded, words

_WORDS = {
    "ar": """
        في من على إلى الى عن مع هذا هذه ذلك تلك التي الذي الذين ما لا لم لن إن أن ان كان كانت
        يكون هو هي هم نحن أنا أنت كل بعض بين بعد قبل عند حتى أو او ثم قد كما لكن إذا اذا غير حيث
        منذ أي وقد وهو وهي ولا وفي ومن
    """,
    "de": """
        aber alle allem allen aller alles als also am an ander andere anderen auch auf aus bei
        beim bin bis bist da damit dann das dass dein deine dem den denn der des dessen dich die
        dies diese diesem diesen dieser dieses dir doch dort du durch ein eine einem einen einer
        eines er es etwa etwas euch euer für gegen hab habe haben hat hatte hätte hier hinter
        ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im in indem ins ist ja jede jedem jeden
        jeder jedes jedoch jene kann kein keine keinem keinen keiner können könnte machen man
        manche mehr mein meine mich mir mit muss müssen nach nicht nichts noch nun nur ob oder
        ohne sehr sein seine seinem seinen seiner seit selbst sich sie sind so solche soll
        sollen sollte sondern sonst über um und uns unser unsere unter viel vom von vor war
        waren warum was weg weil weiter welche welchem welchen welcher welches wenn wer werden
        wie wieder will wir wird wo wollen wurde wurden würde zu zum zur zwar zwischen
    """,
    "en": """
        a about above after again against all also am an and any are as at be because been
        before being below between both but by can cannot could did do does doing don't down
        during each either else even ever every few for from further get got had has have having
        he her here hers herself him himself his how however i i'm if in into is it it's its
        itself just let like may me might more most must my myself neither no nor not now of off
        on once one only or other ought our ours out over own per rather same shall she should
        since so some such than that the their theirs them then there these they this those
        though through thus to too under until up upon us very via was we were what when where
        whether which while who whom whose why will with within without would yet you your yours
    """,
    "es": """
        a al algo algunas algunos ante antes aquel aquella aquellas aquellos aquí así aun aunque
        bajo bien cada como con contra cual cuales cuando de del desde donde dos durante e el él
        ella ellas ellos en entre era eran es esa esas ese eso esos esta está están estar estas
        este esto estos fue fueron ha había han hasta hay la las le les lo los más me mi
        mientras mis mucho muy nada ni no nos nosotros nuestra nuestro o os otra otras otro
        otros para pero poco por porque pues que qué quien quienes se sea según ser si sí sido
        sin sobre son su sus también tan tanto te tiene tienen todo todos tras tu tus un una
        unas uno unos usted y ya yo
    """,
    "fr": """
        à afin ai alors après as au aucun aussi autre autres aux avait avant avec avez avons
        bien c ça car ce ceci cela celle celles celui ces cet cette ceux chaque chez comme
        comment d dans de déjà depuis des dès donc dont du elle elles en encore entre es est et
        étaient était été être eu eux fait font il ils j je jusqu l la là le les leur leurs lors
        lui m ma mais me même mes moi moins mon n ne ni non nos notre nous on ont ou où par
        parce pas pendant peu peut peuvent plus pour pourquoi puis qu quand que quel quelle
        quelles quels qui quoi s sa sans se sera ses si sien soit son sont sous suis sur t ta
        tandis te tes toi ton tous tout toute toutes très tu un une vers vos votre vous y
    """,
    "he": """
        אבל או אותה אותו אותם אחר אחרי איך אין אל אלא אלה אם אנחנו אני אשר את אתה אתם בגלל בין גם
        הוא היא היה היו הייתה היתה הם הן הזאת הזה יותר יש כאשר כדי כי כך כל כמו כן לא לכן לפני
        מה מי מן נגד עד על עם עוד פי רק של שלה שלהם שלו שלי תחת
    """,
    "hi": """
        के का की में से को है हैं और पर ने यह वह ये वे इस उस एक कि जो था थी थे हो होता होती होते
        कर करने किया गया गई गए लिए भी तो ही नहीं या अपने अपनी अपना साथ बाद तक जब तब क्या कोई कुछ
        इन उन इसके उसके द्वारा मैं हम आप
    """,
    "it": """
        a ad agli ai al alla alle allo altra altre altri altro anche ancora avere aveva c che
        chi ci come con contro cui d da dagli dai dal dalla dalle dallo degli dei del dell della
        delle dello di dopo dove e è ed era erano essere fa fino fra già gli ha hanno ho i il in
        io l la le lei li lo loro lui ma me mentre mi mia mio molto ne negli nei nel nell nella
        nelle nello no noi non nostra nostro o ogni per perché però più poco poi qual quale
        quando quanto quella quelle quelli quello questa queste questi questo qui s se sei senza
        si sia siamo sono sopra sotto sta stata stati stato su sua sue sugli sui sul sulla sulle
        sullo suo suoi tra tu tua tuo tutta tutte tutti tutto un una uno v vi voi
    """,
    "nl": """
        aan al alle alles als altijd andere ben bij daar dan dat de der deze die dit doch doen
        door dus een eens en er ge geen geweest haar had hadden heb hebben heeft hem het hier
        hij hoe hun iemand iets ik in is ja je kan kunnen maar me meer men met mij mijn moet
        moeten na naar niet niets nog nu of om omdat onder ons ook op over reeds te tegen
        tijdens toch toen tot u uit uw van veel voor want waren was wat we wel werd werden wezen
        wie wij wil worden wordt zal ze zelf zich zij zijn zo zonder zou zouden
    """,
    "pl": """
        a aby ale albo bez bo być był była było były by ci co czy dla do gdy gdyż gdzie go i ich
        im ja jak jako je jednak jego jej jest jestem jeszcze jeśli już każdy kiedy kto która
        które którego której którzy który lub ma mają może można my na nad nam nas nawet nie
        nich niż o od ona one oni oraz po pod przed przez przy są się sobie ta tak także tam te
        tego tej ten też to tu tylko tym tych w was we wszystko z za ze że
    """,
    "pt": """
        a à ao aos aquela aquele aquilo as às até com como da das de dela dele deles depois do
        dos e é ela elas ele eles em entre era eram essa esse esta está estão estas este estes
        eu foi foram há isso isto já lhe mais mas me mesmo meu minha muito na não nas nem no nos
        nós nossa nosso num numa o onde os ou para pela pelas pelo pelos por porque qual quando
        que quem são se sem ser seu seus só sobre sua suas também te tem têm ter tinha tu um uma
        umas uns você vocês
    """,
    "ru": """
        а без более был была были было быть в вам вас весь во вот все всё всех вы где да даже
        для до его ее её если есть еще ещё же за здесь и из или им их к как какая какой когда
        который которая которые кто ли либо между меня мне может мы на над надо нас не него нее
        нет ни них но ну о об однако он она они оно от перед по под после потом при про с сам
        свой свою себе себя со так также такой там те тем то того тоже той только том тот ту ты
        у уже хотя чего чей чем что чтобы эта эти это этого этой этом этот я
    """,
    "tr": """
        ama ancak bazı ben benim bile bir biri biz bu buna bunlar bunu bunun çok çünkü da daha
        de defa diye dolayı en gibi hem hep her hiç için ile ilgili ise kadar kendi ki kim mi mı
        mu mü nasıl ne neden nerede o olan olarak oldu olduğu olur onlar onu onun sadece sen siz
        şey şu tüm var ve veya ya yani yok
    """,
    "uk": """
        а або але б без більш був була були було бути в вам вас весь від він вона вони воно все
        всі де для до його є ж за з зі і із інші їх й коли крім ли мене ми може на над нас не
        неї ні них ну о об один під після по при про с свій себе та так також там те то того той
        тільки ти у уже хоча це цей ці чи чого що щоб я як яка який які якщо
    """,
    # Characters that hardly ever are part of a longer word, in both ways of writing.
    "zh": """
        的 了 是 在 和 与 及 或 也 就 都 而 这 那 我 你 他 她 它 们 吗 呢 吧 把 被 很 與 這 們 嗎
    """,
}


def stop_words_of(text: str) -> Set[str]:
    """Those of the language that the text has most of; none where it has none."""
    counts = Counter(words(text))
    best = max(_WORDS, key=lambda language: _hits(counts, language))
    return _set(best) if _hits(counts, best) else frozenset()


def _hits(counts: Counter[str], language: str) -> int:
    return sum(counts[word] for word in _set(language))


def _set(language: str) -> frozenset[str]:
    return frozenset(map(folded, _WORDS[language].split()))
