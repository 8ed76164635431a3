"""What sessions are told to do by themselves, against a real PostgreSQL."""

from sqlalchemy import text

from control_plane.database import IN_TRANSACTION_IDLE_SECONDS, Database, sqlalchemy_url

SETTINGS = text(
    "SELECT current_setting('idle_in_transaction_session_timeout'), current_setting('work_mem')"
)


async def test_what_hangs_in_a_transaction_is_ended_and_the_urls_options_hold(
    database_url: str,
) -> None:
    url = sqlalchemy_url(database_url).update_query_dict({"options": "-c work_mem=5MB"})
    database = Database(url.render_as_string(hide_password=False))
    async with database.transaction() as session:
        row = (await session.execute(SETTINGS)).one()
    await database.close()
    assert tuple(row) == (f"{IN_TRANSACTION_IDLE_SECONDS // 3600}h", "5MB")
